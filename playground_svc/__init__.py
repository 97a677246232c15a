"""A web page to try profiles on: a client of the generator, for people who would rather look."""
