"""What starting or keeping the embedded stack can fail with."""


class StackError(Exception):
    """A child process could not be started, or ended; `hint` says what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
