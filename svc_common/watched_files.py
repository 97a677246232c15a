"""Files with keys or tokens that are read anew when they change; bad ones never replace good."""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from svc_common.settings import SettingsError

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 1 << 20  # read while callers wait

_T = TypeVar("_T")
_Signature: TypeAlias = tuple[tuple[int, ...] | None, ...]


class WatchedFiles(Generic[_T]):
    """What was read from some files, for as long as they stay as they are; for any thread.

    Looking whether they changed is one `stat` a file, so that it is done at every use: what was
    revoked is not taken any more from the next use on.
    """

    def __init__(self, paths: Sequence[str], read: Callable[[], _T]) -> None:
        """Read the files.

        Args:
            paths: All files that `read` reads.
            read: Returns their content; a SettingsError says why it cannot be used.

        Raises:
            SettingsError: The files cannot be used, and there is nothing older.
        """
        self._paths = tuple(paths)
        self._read = read
        self._lock = threading.Lock()  # gRPC asks for keys on threads of its own
        self._signature = _signature(self._paths)  # before: a change while reading is seen later
        self._value = read()

    @property
    def current(self) -> _T:
        """The newest content that can be used."""
        with self._lock:
            signature = _signature(self._paths)
            if signature != self._signature:
                self._signature = signature
                self._take_new()
            return self._value

    def _take_new(self) -> None:
        files = ", ".join(self._paths)
        try:
            self._value = self._read()
        except SettingsError as error:
            logger.error(  # noqa: TRY400 - a traceback says no more
                "changed secrets cannot be used; the old ones stay in use",
                extra={"files": files, "reason": str(error)},
            )
        else:
            logger.info("secrets read anew", extra={"files": files})


def read_secret_file(setting: str, path: str) -> bytes:
    """Return a file's content.

    Raises:
        SettingsError: It cannot be read, is empty or too large.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(
            f"{setting}: must be a readable file, got {path}: {error.strerror}"
        ) from error
    if not content or len(content) > MAX_FILE_BYTES:
        got = "more" if content else "0"
        raise SettingsError(
            f"{setting}: must be a file of 1..{MAX_FILE_BYTES} bytes, got {path} with {got}"
        )
    return content


def _signature(paths: Sequence[str]) -> _Signature:
    return tuple(_stat(path) for path in paths)


def _stat(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
