"""The reward service: says how well each candidate token suits a user's stated preferences."""
