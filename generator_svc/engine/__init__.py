"""Continuous batching: which sequences run in a step, and what happens in it."""
