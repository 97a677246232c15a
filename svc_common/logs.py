"""Logs as JSON lines: a constant event text, its values, the request id where there is one."""

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

from svc_common.rpc_boundary import current_request_id

# gRPC's words, with a traceback, for a caller who hung up while the answer was sent.
_HANG_UP = "ExecuteBatchError raised in core"
LEVELS = ("debug", "info", "warning", "error")


def configure_logging(level: str, stream: TextIO) -> None:
    """Send all logs of this process to `stream`, one JSON object a line.

    Args:
        level: One of `LEVELS`; events below it are dropped.
        stream: Where lines go: stderr, as stdout belongs to whoever started the process.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(lambda record: not str(record.msg).startswith(_HANG_UP))
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
            "event": record.getMessage(),
        }
        request_id = current_request_id()
        if request_id:
            fields["request_id"] = request_id
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        # default=str: a log line with an odd value beats an error about the log line.
        return json.dumps(fields | {k: v for k, v in extra.items() if k not in fields}, default=str)

    def _is_extra(self, name: str) -> bool:
        return name not in self._own_fields
