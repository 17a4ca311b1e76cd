"""What a run takes: bytes of memory and disk."""
