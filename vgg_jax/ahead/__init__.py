"""Programs compiled ahead for accelerators that are not here, read and judged before these are paid for (Sec. 3.3)."""
