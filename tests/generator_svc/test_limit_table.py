"""What the file of tenants' limits may say."""

import json
from pathlib import Path

import pytest

from generator_svc.admission.limits import TenantLimits, read_limits
from svc_common.settings import SettingsError


def test_a_file_gives_tenants_limits_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    path.write_text(json.dumps({"acme": {"max_concurrent": 9, "weight": 2.5}}))
    table = read_limits(TenantLimits(1, 100), str(path), "X")
    assert table.of("acme") == TenantLimits(9, 100, 2.5)
    assert table.of("other") == TenantLimits(1, 100, 1.0)
    assert table.weight_of("acme") == 2.5
    assert read_limits(TenantLimits(1, 100), "", "X").of("acme") == TenantLimits(1, 100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "X: must be a readable JSON file, got JSONDecodeError"),
        ("[]", "X: must hold an object, got list"),
        ('{"acme": 3}', "X: acme: must be an object, got int"),
        ('{"acme": {"rate": 3}}', "X: acme.rate: must be one of max_concurrent"),
        ('{"acme": {"max_concurrent": -1}}', "X: acme.max_concurrent: must be a whole number >= 0"),
        ('{"acme": {"max_concurrent": 1.5}}', "whole number >= 0, got 1.5"),
        ('{"acme": {"tokens_per_minute": true}}', "whole number >= 0, got True"),
        ('{"acme": {"weight": 0}}', "X: acme.weight: must be a number > 0"),
    ],
)
def test_a_file_that_breaks_a_rule_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "limits.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_limits(TenantLimits(), str(path), "X")
    with pytest.raises(SettingsError, match="FileNotFoundError"):
        read_limits(TenantLimits(), str(tmp_path / "none"), "X")
