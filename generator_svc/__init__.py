"""The generator service: writes text with a base model, each token guided by the reward service."""
