"""How many files the process may have open: each connection is one."""

import logging
import resource

logger = logging.getLogger(__name__)

SPARE_FILES = 512  # models, logs, metrics, connections of our own


def allow_connections(setting: str, most: int) -> None:
    """Let the process open as many files as so many connections need, as far as the system allows.

    Many systems begin with 1024 and allow far more. Who has none left takes no connection at all,
    of probes neither.

    Args:
        setting: Where `most` comes from.
        most: Connections; 0 where there is no limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = most + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        values = {"setting": setting, "max_connections": most, "max_open_files": allowed}
        logger.warning("fewer files may be open than connections are taken", extra=values)
