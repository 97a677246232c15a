"""The GPU benchmark runs to its end on a CPU, does the real work, and says what it cannot do."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_plan import (
    BASE,
    CONTENDERS,
    EAGER,
    GIB,
    IN_TURN,
    OWN_PROCESS,
    SHARED,
    SHARED_REFERENCE,
    copy_bandwidth,
    fit,
    floor_ms,
    free_bytes,
    memory_needed,
    weight_bytes,
)
from benchmarks.random_llama import Shape, random_model, with_adapter
from tests.benchmarks.gpu_case import TINY

CPU = torch.device("cpu")
LLAMA_3_8B = dataclasses.replace(
    TINY,
    shape=Shape(),
    device="cuda:0",
    reward_device="cuda:0",
    dtype=torch.bfloat16,
    batch_size=1,
    context_length=2048,
    rank=16,
)
TINY_WORDS = ["--tiny", "--device", "cpu", "--dtype", "float32"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_every_contender_is_measured_and_compared_with_plain_and_with_the_floor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main([*TINY_WORDS, "--batch", "1", "3", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    [path] = (tmp_path / "results").glob("*-gpu.json")
    values = json.loads(path.read_text())
    cells = [(row["batch"], row["contender"]) for row in values["results"]]
    assert cells == [(batch, name) for batch in (1, 3) for name in CONTENDERS]
    for row in values["results"]:
        assert f"| tiny | {row['batch']} | 16 | {row['contender']} |" in shown
        plain = next(
            other["step_ms"]
            for other in values["results"]
            if (other["batch"], other["contender"]) == (row["batch"], BASE)
        )
        assert len(row["step_ms"]) == 2
        assert min(row["step_ms"]) > 0
        assert row["to_plain"] == [a / b for a, b in zip(row["step_ms"], plain, strict=True)]
        assert row["to_floor"] == [
            step / floor for step, floor in zip(row["step_ms"], row["floor_ms"], strict=True)
        ]
    for heading in ("step ms", "to plain", "floor ms", "to floor"):
        assert f"| {heading} |" in shown
    assert any("GB/s" in note for note in values["notes"])


@pytest.mark.slow
def test_a_contender_without_room_is_named_and_the_others_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Room for what shares the base's weights, but not for a second set of them."""
    case = dataclasses.replace(TINY, prompt_length=16, context_length=64, top_k=20, rank=16)
    fitting = [BASE, EAGER, SHARED, SHARED_REFERENCE]
    room = sum(memory_needed(name, case)["cpu"] for name in fitting)
    words = [*TINY_WORDS, "--max-gib", repr((room + 1000) / GIB), "--out", str(tmp_path)]
    assert gpu.main(words) == 0
    shown = capsys.readouterr().out
    [path] = (tmp_path / "results").glob("*-gpu.json")
    values = json.loads(path.read_text())
    assert [row["contender"] for row in values["results"]] == fitting
    for name in (IN_TURN, OWN_PROCESS):
        assert f"- {name}, B = 2: skipped, needs " in shown


def test_without_room_for_the_base_nothing_is_measured_and_the_exit_status_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY_WORDS, "--max-gib", "0.001", "--out", str(tmp_path)]
    assert gpu.main(words) == 1
    text = capsys.readouterr()
    assert text.out.count("skipped, needs") == len(CONTENDERS)
    assert "nothing was measured" in text.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda:99"], "--device: must be a torch device of this machine"),
        (
            ["--device", "cpu", "--reward-device", "cuda:99"],
            "--reward-device: must be a torch device of this machine",
        ),
        (["--top-k", "513"], "--top-k: must be at most the vocabulary's 512, got 513"),
        (["--context", "20"], "--context: must be at least --prompt + 2 + --steps = 22, got 20"),
        (["--batch", "1", "0"], "--batch: must be at least 1, got 0"),
        (["--rank", "0"], "--rank: must be at least 1, got 0"),
        (["--max-gib", "0"], "--max-gib: must be above 0, got 0"),
    ],
)
def test_what_cannot_be_run_is_refused_by_the_options_name(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        gpu.main([*TINY_WORDS, *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_one_device_has_one_name_so_that_its_memory_is_counted_once(device: str) -> None:
    options = gpu.parse(["--tiny", "--device", device, "--reward-device", "cpu"])
    assert (options.device, options.reward_device) == ("cpu", "cpu")


def test_bytes_read_are_those_of_the_weights_that_are_made() -> None:
    model = random_model(TINY.shape, CPU, torch.float16, 32, seed=1)
    adapted = with_adapter(model, TINY.shape, TINY.rank, seed=2)
    names = ("qkv", "out", "gate_up", "down")
    layers = sum(
        getattr(layer, name).weight.nbytes for layer in model.weights.layers for name in names
    )
    changes = sum(
        getattr(layer, name).down.nbytes + getattr(layer, name).up.nbytes
        for layer in adapted.weights.layers
        for name in names
    )
    head = model.head_weight.nbytes
    case = dataclasses.replace(TINY, dtype=torch.float16)
    read = {name: weight_bytes(name, case)["cpu"] for name in CONTENDERS}
    assert read == {
        BASE: layers + head,
        EAGER: layers + head,
        SHARED: layers + head + changes,
        SHARED_REFERENCE: layers + head + changes,
        IN_TURN: 2 * layers + head,
        OWN_PROCESS: 2 * layers + head + changes,
    }
    embedding = model.weights.embedding.first.nbytes
    assert 2 * TINY.shape.num_weights == layers + head + embedding
    assert 2 * TINY.shape.num_adapter(TINY.rank) == changes


def test_the_floor_of_llama_3_8b_is_known() -> None:
    """7.5 billion weights of two bytes at 3 TB/s: five milliseconds."""
    assert LLAMA_3_8B.shape.num_weights == pytest.approx(8.03e9, rel=1e-3)
    read = weight_bytes(BASE, LLAMA_3_8B)
    assert floor_ms(read, {"cuda:0": 3e12}) == pytest.approx(5.0, rel=0.01)


def test_two_devices_read_at_the_same_time_and_one_reads_all() -> None:
    assert floor_ms({"a": 3_000, "b": 8_000}, {"a": 1e6, "b": 2e6}) == 4.0
    apart = dataclasses.replace(LLAMA_3_8B, reward_device="cuda:1")
    here, there = weight_bytes(OWN_PROCESS, apart).values()
    assert weight_bytes(BASE, apart) == {"cuda:0": here}
    assert weight_bytes(OWN_PROCESS, LLAMA_3_8B) == {"cuda:0": here + there}


def test_every_contender_of_the_default_run_fits_a_gpu_of_80_gb() -> None:
    options = gpu.parse(["--device", "cpu"])
    for batch_size in options.batch:
        case = dataclasses.replace(
            LLAMA_3_8B, batch_size=batch_size, context_length=options.context
        )
        assert fit(case, {"cuda:0": 78 * GIB}).names == CONTENDERS


def test_memory_is_checked_in_order_and_by_device() -> None:
    everything = fit(LLAMA_3_8B, {"cuda:0": 78 * GIB})
    assert everything.names == CONTENDERS
    assert not everything.refusals
    small = fit(LLAMA_3_8B, {"cuda:0": 24 * GIB})
    assert small.names == (BASE, EAGER, SHARED, SHARED_REFERENCE)
    for name, text in zip((IN_TURN, OWN_PROCESS), small.refusals, strict=True):
        assert text.startswith(f"{name}, B = 1: skipped, needs ")
        assert "GiB of cuda:0" in text
    apart = dataclasses.replace(LLAMA_3_8B, reward_device="cuda:1")
    two = fit(apart, {"cuda:0": 24 * GIB, "cuda:1": 24 * GIB})
    assert two.names == (BASE, EAGER, SHARED, SHARED_REFERENCE, OWN_PROCESS)
    assert fit(apart, {"cuda:0": 80 * GIB, "cuda:1": GIB}).names == CONTENDERS[:-1]
    assert "of cuda:1, has 1.00" in fit(apart, {"cuda:0": 80 * GIB, "cuda:1": GIB}).refusals[0]


def test_the_bandwidth_of_a_copy_is_a_number_and_memory_is_there() -> None:
    assert 1e7 < copy_bandwidth("cpu", 1 << 22) < 1e13
    assert free_bytes("cpu") > 1 << 20
