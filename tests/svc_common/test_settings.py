from dataclasses import dataclass
from pathlib import Path

import pytest

from svc_common.settings import (
    SettingsError,
    load_settings,
    setting,
    settings_errors,
    settings_table,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    model: Path = setting(help="Folder of the model.")
    num_slots: int = setting(8, min=1, max=64, help="Sequences at once.")
    beta: float = setting(1.0, min=0, help="Guidance strength.")
    log_level: str = setting("info", choices=("debug", "info"), help="Least level logged.")
    rewards: tuple[str, ...] = setting((), help="Replicas.")
    is_open: bool = setting(False, help="Whether a | stands here.")


def load(**variables):
    return load_settings(Settings, "X_", variables)


def test_defaults_hold_where_nothing_is_set():
    assert load(X_MODEL="/m", OTHER="y") == Settings(model=Path("/m"))


def test_all_types_are_read():
    assert load(
        X_MODEL="/m",
        X_NUM_SLOTS="3",
        X_BETA="0.5",
        X_LOG_LEVEL="debug",
        X_REWARDS="a:1, b:2",
        X_IS_OPEN="true",
    ) == Settings(
        model=Path("/m"),
        num_slots=3,
        beta=0.5,
        log_level="debug",
        rewards=("a:1", "b:2"),
        is_open=True,
    )


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("X_NUM_SLOTS", "0", "X_NUM_SLOTS: must be 1..64, got 0"),
        ("X_NUM_SLOTS", "many", "X_NUM_SLOTS: must be a whole number, got 'many'"),
        ("X_NUM_SLOTS", "", "X_NUM_SLOTS: must be a whole number, got ''"),
        ("X_BETA", "-1", "X_BETA: must be >= 0, got -1.0"),
        ("X_BETA", "nan", "X_BETA: must be a number, got 'nan'"),
        ("X_LOG_LEVEL", "loud", "X_LOG_LEVEL: must be debug | info, got 'loud'"),
        ("X_IS_OPEN", "yes", "X_IS_OPEN: must be true or false, got 'yes'"),
        (
            "X_NUM_SLOT",
            "3",
            "X_NUM_SLOT: is no setting of this service; did you mean X_NUM_SLOTS?",
        ),
        ("X_ZZZ", "3", "X_ZZZ: is no setting of this service"),
    ],
)
def test_bad_variable_is_named_with_rule_and_value(variable, value, message):
    with pytest.raises(SettingsError) as caught:
        load(**{"X_MODEL": "/m", variable: value})
    assert str(caught.value) == message


def test_missing_variable_is_named():
    with pytest.raises(SettingsError, match=r"X_MODEL: must be set \(Folder of the model.\)"):
        load()


def test_table_has_a_row_for_each_setting():
    table = settings_table(Settings, "X_").splitlines()
    assert table[2] == "| `X_MODEL` | path | (must be set) |  | Folder of the model. |"
    assert table[3] == "| `X_NUM_SLOTS` | int | `8` | 1..64 | Sequences at once. |"
    assert table[7] == "| `X_IS_OPEN` | bool | `false` |  | Whether a \\| stands here. |"


def test_all_errors_are_told_where_a_start_tells_of_the_first():
    variables = {"X_BETA": "-1", "X_ZZZ": "3", "X_IS_OPEN": "true"}
    told = settings_errors(Settings, "X_", variables)
    assert {name: str(error) for name, error in told.items()} == {
        "X_ZZZ": "X_ZZZ: is no setting of this service",
        "X_MODEL": "X_MODEL: must be set (Folder of the model.)",
        "X_BETA": "X_BETA: must be >= 0, got -1.0",
    }
    with pytest.raises(SettingsError, match="X_ZZZ"):
        load(**variables)
    assert settings_errors(Settings, "X_", {"X_MODEL": "/m"}) == {}


def test_what_all_variables_begin_with_makes_none_of_them_similar():
    told = settings_errors(Settings, "A_LONG_PREFIX_", {"A_LONG_PREFIX_PACE": "1"})
    assert str(told["A_LONG_PREFIX_PACE"]) == "A_LONG_PREFIX_PACE: is no setting of this service"
