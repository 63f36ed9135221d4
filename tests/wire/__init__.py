"""losswire: bytes in and out."""
