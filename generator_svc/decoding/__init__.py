"""Pure functions on tensors: from logits and rewards to the next token."""
