"""Ahead-of-time compilation for accelerators this machine lacks: memory, traffic and predicted speed (Sec. 3.3)."""
