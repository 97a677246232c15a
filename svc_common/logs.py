"""Logs as JSON lines: a constant event text, its values, the ids of request and trace if any.

No line holds what a caller wrote: our own name none of it, and of exceptions, whose texts often
quote the value that broke them, only those texts are logged that cannot.
"""

import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

from svc_common.rpc_boundary import current_request_id
from svc_common.tracing import current_trace_id

# gRPC's words, with a traceback, for a caller who hung up while the answer was sent.
_HANG_UP = "ExecuteBatchError raised in core"
LEVELS = ("debug", "info", "warning", "error")
_OWN = frozenset(
    [
        *("svc_common", "generator_svc", "reward_svc", "colocated_svc", "edge_svc"),
        *("playground_svc", "__main__"),
    ]
)
# Their texts speak of devices, memory, files, types and our own rules. Those of others (ValueError,
# KeyError, of Redis, gRPC, chat templates) may quote a prompt, a profile, or a user's id in a key.
_TELLING = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    IndexError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
)


logger = logging.getLogger(__name__)


def log_everything() -> None:
    """Make log lines of what a process writes to stderr by other ways: for its beginning.

    These are libraries with handlers of their own, warnings, and errors that nobody caught.
    """
    for name in list(logging.root.manager.loggerDict):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda failed: _log_uncaught(
        failed.exc_type, failed.exc_value, failed.exc_traceback
    )
    sys.unraisablehook = lambda failed: _log_uncaught(
        failed.exc_type, failed.exc_value, failed.exc_traceback
    )


def log_failed_start(error: Exception) -> None:
    """Say why a process cannot start; the error names setting, rule and value."""
    logger.error("cannot start", extra={"reason": str(error)})


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, where: TracebackType | None
) -> None:
    if not issubclass(kind, SystemExit):  # by which a thread may end
        logger.critical("uncaught error", exc_info=(kind, error or kind(), where))


def configure_logging(level: str, stream: TextIO) -> None:
    """Send all logs of this process to `stream`, one JSON object a line.

    Args:
        level: One of `LEVELS`; events below it are dropped.
        stream: Where lines go: stderr, as stdout belongs to whoever started the process.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(_is_fit)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class JsonFormatter(logging.Formatter):
    """Formats a record with its `extra` values, less those named like a fixed field."""

    def __init__(self) -> None:
        super().__init__()
        self._own_fields = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def format(self, record: logging.LogRecord) -> str:
        extra = {name: value for name, value in vars(record).items() if self._is_extra(name)}
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            # asyncio shows the failed task in further lines, and its error in full.
            "event": record.getMessage().partition("\n")[0],
        }
        request_id = current_request_id()
        if request_id:
            fields["request_id"] = request_id
        trace_id = current_trace_id()
        if trace_id:
            fields["trace_id"] = trace_id
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = "\n".join(_chain(record.exc_info[1]))
        # default=str: a log line with an odd value beats an error about the log line.
        return json.dumps(fields | {k: v for k, v in extra.items() if k not in fields}, default=str)

    def _is_extra(self, name: str) -> bool:
        return name not in self._own_fields


def _is_fit(record: logging.LogRecord) -> bool:
    """Keep from libraries only what is amiss: at lower levels some log what they are given."""
    if str(record.msg).startswith(_HANG_UP):
        return False
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] in _OWN


def _chain(error: BaseException) -> Iterator[str]:
    """Yield what happened, first causes first, without texts that may be a caller's."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        seen.append(found)
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    for one in reversed(seen):
        yield from (line.rstrip() for line in traceback.format_tb(one.__traceback__))
        name = f"{type(one).__module__}.{type(one).__qualname__}".removeprefix("builtins.")
        yield f"{name}: {one}" if isinstance(one, _TELLING) else name
        if isinstance(one, BaseExceptionGroup):
            for inner in one.exceptions:
                yield from _chain(inner)
