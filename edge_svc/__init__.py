"""The OpenAI-compatible HTTP edge: a translator in front of the generator, no more."""
