"""Every suite runs to its end at its smallest, with real processes, and keeps what it found."""

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.options import Options, Scale
from benchmarks.report import Report
from benchmarks.suites import alternatives, flat, long, models, overload, paced, scaling

pytestmark = [
    pytest.mark.slow,
    # peft asks a property of models that transformers is about to rename.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning"),
]


@pytest.fixture(scope="module")
def options(cache: Path) -> Options:
    return Options(Scale.TINY, cache)


def contenders(report: Report) -> set[str]:
    return {result.contender for result in report.results}


def check(report: Report) -> None:
    """Every contender gave numbers, and every bar has as many values as rounds."""
    assert report.results
    assert all(result.samples for result in report.results)
    assert all(bar.values for bar in report.bars)


def test_models_measures_every_contender_on_the_same_weights(options: Options) -> None:
    report = models.run(options)
    check(report)
    assert contenders(report) == {
        "plain, over gRPC",
        "pad-released, full",
        "pad-released, lora",
        "pad-released, sequential",
        "pad, full",
        "pad, lora",
        "pad, lora, two rows",
        "engine, in process",
        "engine, in process, beside another",
        "engine, in process, mixed",
        "transformers generate",
        "transformers generate, mixed",
        "transformers continuous, mixed",
        "no cache (released code)",
    }
    names = " ".join(bar.name for bar in report.bars)
    for part in ("pad, lora / plain", "engine / generate", "continuous, mixed"):
        assert part in names


def test_paced_measures_the_services_own_cost(options: Options) -> None:
    report = paced.run(options)
    check(report)
    assert contenders(report) == {"plain", "pad-released", "pad"}
    for result in report.results:
        assert min(result.values("step_ms")) >= 5.0  # the pace itself
        assert min(result.values("server_generator_forward_ms")) >= 5.0
        waits = result.values("server_reward_wait_ms")
        assert all((wait == 0) == (result.contender == "plain") for wait in waits)


def test_scaling_answers_everyone(options: Options) -> None:
    report = scaling.run(options)
    check(report)
    crowds = [result for result in report.results if result.contender.startswith("crowd")]
    assert [result.values("num_complete") for result in crowds] == [[20.0], [20.0]]
    assert {"1 replicas", "2 replicas", "1 generators", "2 generators"} <= contenders(report)


def test_flat_compares_prompts_candidates_and_users(options: Options) -> None:
    report = flat.run(options)
    check(report)
    assert len(report.bars) == 6


def test_long_follows_one_answer_to_its_end(options: Options) -> None:
    report = long.run(options)
    check(report)
    assert {result.cell.prompt for result in report.results} == {10, 20, 30, 40}


def test_overload_writes_what_it_lets_in_and_refuses_the_rest(options: Options) -> None:
    report = overload.run(options)
    check(report)
    assert len(report.bars) == 7
    by_name = {result.contender: result for result in report.results}
    assert min(by_name["overload"].values("num_written")) > 0
    assert min(by_name["at once"].values("num_refused")) > 0
    beside = by_name["B beside A's flood"]
    assert min(beside.values("num_written")) > 0
    assert max(beside.values("num_refused")) == 0


def test_memory_is_what_the_configuration_says(cache: Path, tmp_path: Path) -> None:
    """Through the command line, which keeps the figures."""
    words = ["--suite", "memory", "--tiny", "--cache", str(cache), "--out", str(tmp_path)]
    assert command.main(words) == 0
    [path] = (tmp_path / "results").glob("*-memory.json")
    values = json.loads(path.read_text())
    cache_bar = next(bar for bar in values["bars"] if bar["name"].startswith("KV cache"))
    assert cache_bar["measured"] == 1.0
    assert any(row["contender"] == "RSS of generator" for row in values["results"])


def test_alternatives_time_forwards_and_drafts(options: Options) -> None:
    report = alternatives.run(options)
    check(report)
    assert {"lean", "transformers", "lean, two halves"} < contenders(report)
    [drafts] = [r for r in report.results if r.contender == "speculation, drafts of 2"]
    assert 1 <= drafts.values("tokens_per_round")[0] <= 2
