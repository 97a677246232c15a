"""Chooses the ports of the services, and sees before anything starts that they are free."""

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack

from pad_client.embedded.errors import StackError

HOST = "127.0.0.1"


def choose_ports(wanted: Sequence[int | None], options: Sequence[str]) -> list[int]:
    """Return the ports with a free one in place of each None.

    Args:
        wanted: the ports, or None for any.
        options: what chooses the first of them on the command line; the rest has no option.

    Raises:
        StackError: a wanted port is in use, is wanted twice or is not ours to use.
    """
    with ExitStack() as held:  # all at once, so that no port is found twice
        # The wanted ones first: else one of them could be found as a free one.
        for index, port in enumerate(wanted):
            if port is None:
                continue
            if port in wanted[:index]:
                raise StackError(f"port {port} is given twice")
            _hold(held, port, options[index] if index < len(options) else "")
        return [_hold_any(held) if port is None else port for port in wanted]


def _hold(held: ExitStack, port: int, option: str) -> None:
    probe = held.enter_context(socket.socket())
    # As the services do it: what an earlier server's connections left behind is no obstacle.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((HOST, port))
    except OSError as error:
        another = f"choose another with {option} N" if option else "choose another"
        if error.errno != errno.EADDRINUSE:
            raise StackError(f"port {port}: {error.strerror}", hint=another) from error
        raise StackError(
            f"port {port} is in use", hint=f"is `pad up` running already? else {another}"
        ) from error


def _hold_any(held: ExitStack) -> int:
    probe = held.enter_context(socket.socket())
    probe.bind((HOST, 0))
    port: int = probe.getsockname()[1]
    return port
