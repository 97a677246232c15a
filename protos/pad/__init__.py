"""Wire contract of PAD serving."""
