"""Training of the bundled demo models: tokenizer, base model, personalised reward model."""
