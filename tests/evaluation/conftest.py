"""One torch thread, as in the training tests."""

from tests.training.conftest import _one_thread

__all__ = ["_one_thread"]
