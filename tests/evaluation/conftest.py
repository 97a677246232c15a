"""The tiny data folder and settings of the training tests."""

from tests.training.conftest import data, tiny

__all__ = ["data", "tiny"]
