"""What a net is trained for: classification (Sec. 4)."""
