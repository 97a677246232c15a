"""What each tenant may use, as the operator says."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from svc_common.settings import SettingsError


@dataclass(frozen=True)
class TenantLimits:
    """Of one tenant; 0 is no limit.

    Attributes:
        max_concurrent: Answers that wait or are written.
        tokens_per_minute: Tokens of prompts and answers; as many may come at once.
        weight: Share of the starts relative to other tenants', while requests wait.
    """

    max_concurrent: int = 0
    tokens_per_minute: int = 0
    weight: float = 1.0

    @property
    def is_unlimited(self) -> bool:
        return not (self.max_concurrent or self.tokens_per_minute)


@dataclass(frozen=True)
class LimitTable:
    """The limits of all tenants: their own, else the default."""

    default: TenantLimits = TenantLimits()
    own: Mapping[str, TenantLimits] = field(default_factory=dict)

    def of(self, tenant: str) -> TenantLimits:
        return self.own.get(tenant, self.default)

    def weight_of(self, tenant: str) -> float:
        return self.of(tenant).weight


def read_limits(default: TenantLimits, path: str, variable: str) -> LimitTable:
    """Return the default with what a file says of single tenants; no file if `path` is empty.

    Args:
        default: for tenants the file does not name, and for what it leaves out.
        path: JSON: `{"tenant": {"max_concurrent": 4, "tokens_per_minute": 9000, "weight": 2}}`.
        variable: names the file in errors.

    Raises:
        SettingsError: the file cannot be read or breaks a rule.
    """
    if not path:
        return LimitTable(default)
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        kind = type(error).__name__
        raise SettingsError(f"{variable}: must be a readable JSON file, got {kind}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{variable}: must hold an object, got {type(found).__name__}")
    own = {
        tenant: _parse(values, default, f"{variable}: {tenant}") for tenant, values in found.items()
    }
    return LimitTable(default, own)


def _parse(values: Any, default: TenantLimits, where: str) -> TenantLimits:
    if not isinstance(values, dict):
        raise SettingsError(f"{where}: must be an object, got {type(values).__name__}")
    known = {its.name: its.type for its in fields(TenantLimits)}
    for name, value in values.items():
        if name not in known:
            raise SettingsError(f"{where}.{name}: must be one of {', '.join(known)}")
        _check(f"{where}.{name}", value, is_whole=name != "weight")
    return replace(default, **values)


def _check(where: str, value: Any, *, is_whole: bool) -> None:
    kinds = (int,) if is_whole else (int, float)
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not (value >= 0 if is_whole else 0 < value <= 1e6):
        rule = "must be a whole number >= 0" if is_whole else "must be a number > 0 and <= 1e6"
        raise SettingsError(f"{where}: {rule}, got {value!r}")
