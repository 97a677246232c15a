"""Addresses of replicas are checked before anything is loaded."""

import pytest

from generator_svc.reward_client.discovery import check_targets
from svc_common.settings import SettingsError


@pytest.mark.parametrize("target", ["reward", "reward:", "reward:0", "10.0.0.1:99999", "http://x"])
def test_what_can_be_no_address_stops_the_start(target: str) -> None:
    """Port 34463 was called for 99999, and a target without a port looked up for ever."""
    with pytest.raises(SettingsError) as caught:
        check_targets("GENERATOR_REWARD_TARGETS", ("reward:50052", target))
    rule = "must be host:port, with a port of 1..65535, or unix:path"
    assert str(caught.value) == f"GENERATOR_REWARD_TARGETS: {rule}, got {target}"


def test_what_can_be_one_is_taken() -> None:
    check_targets("X", ("reward:50052", "10.0.0.1:65535", "[::1]:1", "unix:/run/reward.sock"))
