"""Replies of a whole plan: all fields, every contender, and the same files after a kill."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing

from evaluation.contenders import plan_rows
from evaluation.models import load_language_model
from evaluation.records import read_replies
from evaluation.replies import Folders, make_replies
from evaluation.users import read_users
from evaluation.writing import read_eval_prompts
from svc_common.preference_prompt import add_preference
from tests.evaluation.reply_data import PLAN, work_until_killed, write_data, write_models
from training.wishes import DIRECTIONS

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("replies")
    return Folders(write_data(root / "data"), write_models(root / "models"), root / "out")


@pytest.fixture(scope="module")
def paths(folders: Folders) -> list[Path]:
    return make_replies(folders.data, folders.models, folders.out, PLAN)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the replies of a file without what the clock says."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_every_row_of_the_plan_has_its_replies(folders: Folders, paths: list[Path]) -> None:
    users = read_users(folders.data / "preferences/preferences.json")
    plan = plan_rows(PLAN, folders.models, users)
    assert [len(rows_of(path)) for path in paths] == [row.num_replies for row in plan]
    replies = read_replies(paths)
    counts = Counter(reply.contender for reply in replies)
    assert set(counts) == {row.contender for row in plan}
    assert counts["user-lora"] == 12 * PLAN.num_prompts
    assert {reply.prompt_id for reply in replies} == {"e0", "e1"}
    assert all(reply.kl_per_token == 0 for reply in replies if reply.contender == "base")
    for reply in replies:
        assert reply.num_tokens <= PLAN.max_new_tokens - (not reply.ended) + 1
        assert reply.seconds > 0
        names = ("prompt", "best-of-n", "theta")
        is_stated = reply.contender in names or "pad" in reply.contender
        assert bool(reply.preference) == is_stated


def test_theta_writes_alone_with_the_preference_in_its_prompt(
    folders: Folders, paths: list[Path]
) -> None:
    theta = load_language_model(folders.models / "demo-persrm")
    context = {
        one.prompt_id: one.context
        for one in read_eval_prompts(folders.data / "eval/prompts_dev.jsonl", PLAN.num_prompts)
    }
    replies = [reply for reply in read_replies(paths) if reply.contender == "theta"]
    for reply in replies[:4]:
        messages = add_preference(context[reply.prompt_id], reply.preference)
        prompt = theta.tokenizer.encode_prompt(tuple(messages))
        output = theta.model.generate(
            torch.tensor([prompt]), max_new_tokens=PLAN.max_new_tokens, do_sample=False
        )
        assert theta.tokenizer.decode(output[0, len(prompt) :].tolist()).strip() == reply.text
    assert {reply.user for reply in replies} == set(DIRECTIONS)


def test_figures_of_the_adapters_are_written(folders: Folders, paths: list[Path]) -> None:
    assert paths
    figures = json.loads((folders.out / "user_lora.json").read_text())
    assert len(figures["users"]) == 12
    assert figures["training_tokens"] == sum(
        own["training_tokens"] for own in figures["users"].values()
    )


def test_what_is_there_is_not_written_again_and_what_is_stale_goes(
    folders: Folders, paths: list[Path]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in paths}
    stale = paths[0].with_name("base-000000000000.jsonl")
    stale.write_text("{}\n")
    assert make_replies(folders.data, folders.models, folders.out, PLAN) == paths
    assert {path: path.stat().st_mtime_ns for path in paths} == before
    assert not stale.exists()


def test_a_killed_run_goes_on_to_the_same_files(
    folders: Folders, paths: list[Path], tmp_path: Path
) -> None:
    own = Folders(folders.data, folders.models, tmp_path)
    (tmp_path / "replies").mkdir()
    users = read_users(folders.data / "preferences/preferences.json")
    rows = plan_rows(PLAN, folders.models, users)
    todo = [(row, tmp_path / "replies" / path.name) for row, path in zip(rows, paths, strict=True)]
    context = multiprocessing.get_context("spawn")
    claimed, done = context.Value("i", 0), context.Value("i", 0)
    # In the middle of the third file.
    num_replies = rows[0].num_replies + rows[1].num_replies + 1
    process = context.Process(
        target=work_until_killed, args=(own, PLAN, todo, claimed, done, num_replies)
    )
    process.start()
    process.join()
    assert process.exitcode == -9
    assert len(list((tmp_path / "replies").glob("*.jsonl"))) == 2
    again = make_replies(own.data, own.models, own.out, PLAN)
    assert [path.name for path in again] == [path.name for path in paths]
    assert [rows_of(path) for path in again] == [rows_of(path) for path in paths]
