"""What a net is trained for: classification (Sec. 3.1, 4)."""
