"""Training (Sec. 3.1)."""
