"""The plan asks for every contender once, and only for models that are there."""

from collections import Counter
from pathlib import Path

import pytest

from evaluation.contenders import Plan, full_plan, main_setting, plan_rows, quick_plan
from evaluation.users import User, read_users
from evaluation.writing import spread
from reward_svc.preference_head import PreferenceHead, save_preference_head
from tests.evaluation.reply_data import write_data

CONTENDERS = {
    "base",
    "prompt",
    "in-context",
    "best-of-n",
    "pad-released",
    "pad",
    "theta",
    "user-lora",
}


@pytest.fixture
def users(tmp_path: Path) -> dict[str, User]:
    return read_users(write_data(tmp_path / "data") / "preferences/preferences.json")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "demo-persrm").mkdir(parents=True)
    (folder / "demo-persrm/pad_config.json").write_text('{"stage": 1}')
    return folder


@pytest.mark.parametrize("plan", [full_plan(), quick_plan()])
def test_no_setting_is_run_twice_for_a_user(
    plan: Plan, models: Path, users: dict[str, User]
) -> None:
    save_preference_head(PreferenceHead(4, 4, 2), models / "demo-persrm/vector_head.safetensors")
    rows = plan_rows(plan, models, users)
    asked = Counter((s, user) for row in rows for s in row.settings for user in row.users)
    assert max(asked.values()) == 1
    assert {row.contender for row in rows} == CONTENDERS
    assert len({row.name for row in rows}) == len(rows)
    assert {s.variant for s, _ in asked} == {"", "prompt", "vector"}


def test_a_second_base_adds_its_own_base_to_compare_with(
    models: Path, users: dict[str, User]
) -> None:
    (models / "demo-base-small").mkdir()
    rows = plan_rows(full_plan(), models, users)
    assert {row.contender for row in rows} == CONTENDERS | {"base-small", "pad-small-base"}


def test_the_main_setting_is_the_folders_default(models: Path) -> None:
    assert main_setting(models).variant == "prompt"
    (models / "demo-persrm/pad_config.json").write_text('{"stage": 2, "conditioning": "vector"}')
    assert main_setting(models).variant == "vector"
    (models / "demo-persrm/pad_config.json").write_text('{"stage": 2}')
    (models / "demo-persrm/value_head.safetensors").touch()
    assert main_setting(models).variant == "value"
    assert (main_setting(models).beta, main_setting(models).k) == (1.0, 10)


def test_prompts_are_spread_evenly() -> None:
    assert spread(3, 9) == [0, 3, 6]
    assert spread(5, 3) == [0, 1, 2]
