"""Addresses in settings are judged before anything is loaded."""

from collections.abc import Callable

import pytest

from edge_svc.settings import check_generators
from svc_common.addresses import (
    check_http_listen,
    check_listen,
    check_probe_listen,
    check_targets,
    is_host_port,
)

PATH = "unix:/run/reward.sock"


@pytest.mark.parametrize(
    "target",
    [
        *("reward", "reward:", "reward:0", ":50052", "10.0.0.1:99999", "http://x", "http://x:1"),
        *("dns:///reward:1", "[::1]", "[reward]:1", "re ward:1", "reward:+1", "reward:\u0661", ""),
        *("unix:", f"reward:{'1' * 5000}"),
    ],
)
def test_what_can_be_no_target_is_refused(target: str) -> None:
    """Port 34463 was called for 99999, and a target without a port looked up for ever."""
    with pytest.raises(ValueError, match="must be") as caught:
        check_targets(("reward:50052", target))
    assert str(caught.value) == f"must be host:port or unix:path, got {target!r}"


def test_what_can_be_a_target_is_taken() -> None:
    check_targets(("reward:50052", "re_ward.ns.svc:1", "10.0.0.1:65535", "[::1]:1", "::1:1", PATH))
    check_targets(("[fe80::1%eth0]:1",))
    check_targets(())


@pytest.mark.parametrize(
    ("check", "taken", "refused"),
    [
        (check_listen, ["0.0.0.0:50051", "[::]:0", "localhost:0"], ["", ":1", "::1:1", PATH]),
        (check_probe_listen, ["", "0.0.0.0:50053", PATH], [":1", "unix:"]),
        (check_http_listen, ["127.0.0.1:0", "[::]:8000", "::1:8000", ":8080"], ["8080", "", PATH]),
    ],
)
def test_where_a_server_can_listen(
    check: Callable[[str], None], taken: list[str], refused: list[str]
) -> None:
    for address in taken:
        check(address)
    for address in [*refused, "hello", "127.0.0.1:65536", "127.0.0.1:x", "127.0.0.1:-1"]:
        with pytest.raises(ValueError, match="must be host:port, got "):
            check(address)


def test_edge_and_playground_call_what_the_client_calls() -> None:
    several = ("ipv4:10.0.0.1:1", "10.0.0.2:2")  # as commas part them
    for targets in (("pad:1",), ("[::1]:1",), (PATH,), ("dns:///pad:1",), several):
        check_generators(targets)
    for targets, rule in (
        (("localhost",), "must be host:port, got 'localhost'"),
        ((), "must name a server, got none"),
        (("a:1", "b:2"), "several must be IP addresses"),
    ):
        with pytest.raises(ValueError, match=f"^{rule}"):
            check_generators(targets)


def test_a_port_of_its_own_range() -> None:
    assert is_host_port("a:0", min_port=0)
    assert not is_host_port("a:0")
