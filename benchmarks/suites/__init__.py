"""One module a suite: what is measured, and the bars on it."""
