"""lossserver: each stage alone, and all of it in another process."""
