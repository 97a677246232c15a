"""Running a causal language model step by step."""
