"""Evaluation (Sec. 3.2, 4)."""
