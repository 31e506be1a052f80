"""The networks (Sec. 2)."""
