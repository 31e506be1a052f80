"""Functions of a network over images of any size (Sec. 3.2)."""
