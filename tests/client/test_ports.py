"""Ports are known to be free before anything starts."""

import socket
from pathlib import Path

import pytest

from pad_client.embedded import EmbeddedStack, StackError, StartProgress
from pad_client.embedded.ports import choose_ports
from tests.client.stack_options import fake_options


def test_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    """It took seconds, and then told of a child's death with its log."""
    seen: list[StartProgress] = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for name, option in (("generator_port", "--port"), ("generator_metrics_port", "--metrics")):
            stack = EmbeddedStack(fake_options(tmp_path, **{name: port}), seen.append)
            with pytest.raises(StackError) as caught:
                stack.start()
            assert str(caught.value) == f"port {port} is in use"
            assert caught.value.hint.startswith("is `pad up` running already? else choose another")
            assert option in caught.value.hint
    assert seen == []  # not even the store was waited for


def test_port_that_is_wanted_twice_is_refused() -> None:
    (port,) = choose_ports([None], ())
    with pytest.raises(StackError, match=f"port {port} is given twice"):
        choose_ports([port, None, port], ())


def test_free_ports_are_not_those_that_are_wanted() -> None:
    (port,) = choose_ports([None], ())
    chosen = choose_ports([None, port, None], ())
    assert chosen[1] == port
    assert len(set(chosen)) == 3
