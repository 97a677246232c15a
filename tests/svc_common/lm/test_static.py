"""Decode steps of fixed shapes give what steps of any shape give, and can be recorded."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from svc_common.lm.adapters import LowRank
from svc_common.lm.forward import Step
from svc_common.lm.lean import LeanForward
from svc_common.lm.lean_layers import LeanWeights
from svc_common.lm.lean_weights import lean_weights
from svc_common.lm.runner import SlotRunner
from svc_common.lm.slots import Row
from svc_common.lm.static import Bucket, Groups, StaticForward, rows_of, view_of
from tests.tiny_model import VOCABULARY_SIZE, tiny_model

LEAN = ["llama", "mistral", "gemma", "qwen2"]
CONTEXT = 300  # two attended lengths, and no multiple of anything
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}  # float32; more rows a step change rounding


def low_rank_of(model: nn.Module) -> dict[str, LowRank]:
    torch.manual_seed(3)
    changes = {}
    for name, module in model.base_model.named_modules():
        if name.endswith(("q_proj", "v_proj", "o_proj", "down_proj")):
            num_out, num_in = module.weight.shape
            changes[name] = LowRank(0.3 * torch.randn(num_in, 4), 0.3 * torch.randn(4, num_out))
    return changes


def one_model(architecture: str) -> LeanWeights:
    return lean_weights(tiny_model(architecture).base_model, CONTEXT)


def two_models(architecture: str) -> LeanWeights:
    first, second = tiny_model(architecture, seed=1), tiny_model(architecture, seed=2)
    return lean_weights(first.base_model, CONTEXT, second=second.base_model)


def shared_model(architecture: str) -> LeanWeights:
    model = tiny_model(architecture)
    return lean_weights(model.base_model, CONTEXT, low_rank=low_rank_of(model))


def random_ids(rng: random.Random, most: int) -> list[int]:
    return [rng.randrange(VOCABULARY_SIZE) for _ in range(rng.randint(1, most))]


def join_and_leave(
    runners: list[SlotRunner], rng: random.Random, num_steps: int
) -> list[tuple[Tensor, Tensor]]:
    """Do the same at random on two runners, and return what each gave at each step."""
    live: list[list[Row]] = []  # one row a runner
    given = []
    for _ in range(num_steps):
        if runners[0].num_free and rng.random() < 0.5:
            group, ids = rng.randrange(2), random_ids(rng, 40)
            if rng.random() < 0.1:
                ids = [rng.randrange(VOCABULARY_SIZE) for _ in range(250)]
            rows = [runner.open(group) for runner in runners]
            given.append(tuple(r.append(row, ids) for r, row in zip(runners, rows, strict=True)))
            live.append(rows)
        elif live and rng.random() < 0.3:
            for runner, row in zip(runners, live.pop(rng.randrange(len(live))), strict=True):
                runner.close(row)
        if live:
            chosen = rng.sample(live, rng.randint(1, len(live)))  # any subset, any order
            ids = [rng.randrange(VOCABULARY_SIZE) for _ in chosen]
            given.append(
                tuple(r.decode([c[i] for c in chosen], ids) for i, r in enumerate(runners))
            )
    return given  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("architecture", "weights_of"),
    [
        *((architecture, one_model) for architecture in LEAN),
        *((architecture, two_models) for architecture in ("llama", "gemma")),
        *((architecture, shared_model) for architecture in ("llama", "qwen2")),
    ],
)
def test_fixed_shapes_give_what_any_shape_gives_whoever_joins_and_leaves(
    architecture: str, weights_of: Callable[[str], LeanWeights]
) -> None:
    weights = weights_of(architecture)
    runners = [
        SlotRunner(forward, num_slots=7, context_length=CONTEXT)
        for forward in (LeanForward(weights), StaticForward(LeanForward(weights)))
    ]
    given = join_and_leave(runners, random.Random(5), num_steps=50)
    assert len(given) > 50
    for eager, static in given:
        torch.testing.assert_close(static, eager, **TOLERANCE)


def test_rows_that_take_no_part_keep_every_bit_and_results_stay_as_they_were() -> None:
    runner = SlotRunner(
        StaticForward(LeanForward(one_model("llama"))), num_slots=6, context_length=CONTEXT
    )
    rows = [runner.open() for _ in range(5)]
    for i, row in enumerate(rows):
        runner.append(row, [i + 1] * (20 + i))
    before = {row: runner.read(row) for row in rows}
    kept = runner.decode([rows[1], rows[4]], [7, 8])
    copy = kept.clone()
    runner.decode([rows[4]], [9])
    assert torch.equal(kept, copy)
    for row in rows:
        (contents,) = before[row]
        (contents_now,) = runner.read(row, contents.shape[-2])
        assert torch.equal(contents_now, contents)


def test_a_row_may_be_filled_to_its_last_place() -> None:
    weights = one_model("llama")
    last = []
    for forward in (LeanForward(weights), StaticForward(LeanForward(weights))):
        runner = SlotRunner(forward, num_slots=2, context_length=CONTEXT)
        other, row = runner.open(), runner.open()
        runner.append(other, [5, 6])
        runner.append(row, list(range(CONTEXT - 1 - 200)) + [3] * 200)
        last.append(runner.decode([row], [9]))
        runner.decode([other], [9])
        assert row.length == CONTEXT
    torch.testing.assert_close(last[1], last[0], **TOLERANCE)


def test_shapes_are_few_and_waste_at_most_half_of_the_rows_and_a_quarter_of_the_places() -> None:
    assert sorted({rows_of(n, 64) for n in range(1, 65)}) == [
        *(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    ]
    assert rows_of(5, 5) == 5
    views = sorted({view_of(n, 8192) for n in range(1, 8193)})
    assert views[:6] == [256, 512, 768, 1024, 1280, 1536]
    assert len(views) == 16
    for n in range(1, 8193):
        assert n <= view_of(n, 8192) <= max(256, n + 255, n * 5 // 4)
        assert rows_of(n, 8192) < 1.5 * n + 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("weights_of", [one_model, two_models, shared_model])
def test_recorded_steps_give_what_the_eager_forward_gives(
    weights_of: Callable[[str], LeanWeights],
) -> None:
    weights = on(half(lambda: weights_of("llama")), "cuda:0", torch.float16)
    static = StaticForward(LeanForward(weights), max_graphs=4)  # so that some are recorded again
    runners = [
        SlotRunner(forward, num_slots=7, context_length=CONTEXT)
        for forward in (LeanForward(weights), static)
    ]
    given = join_and_leave(runners, random.Random(5), num_steps=80)
    for eager, recorded in given:
        torch.testing.assert_close(recorded, eager, rtol=2e-2, atol=2e-2)
    assert static.num_graphs == 4


class Recorder(TorchDispatchMode):
    """Notes every operation with the shapes it was given, and the devices of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.devices: set[str] = set()
        self.num_crossings = 0  # from the host to the device that tensors without contents have

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [a for a in torch.utils._pytree.tree_leaves(args) if isinstance(a, Tensor)]
        self.operations.append(f"{func} {[(t.shape, t.stride()) for t in tensors]}")
        self.devices |= {tensor.device.type for tensor in tensors}
        given = {tensor.device.type for tensor in tensors}
        result = func(*args, **(kwargs or {}))
        if "cpu" in given and isinstance(result, Tensor) and result.device.type == "meta":
            self.num_crossings += 1
        return result


def on(weights: LeanWeights, device: str, dtype: torch.dtype) -> LeanWeights:
    """The same weights elsewhere; they must not be packed."""

    def moved(thing: Any) -> Any:
        if isinstance(thing, Tensor):
            return thing.to(device, dtype)
        if isinstance(thing, tuple):
            return tuple(moved(part) for part in thing)
        if hasattr(thing, "__dataclass_fields__"):
            fields = {name: moved(getattr(thing, name)) for name in thing.__dataclass_fields__}
            return type(thing)(**fields)
        return thing

    return moved(weights)  # type: ignore[no-any-return]


def half(weights_of: Callable[[], LeanWeights]) -> LeanWeights:
    """Weights that are not packed, as on a GPU."""
    torch.set_default_dtype(torch.float16)
    try:
        return weights_of()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("groups", list(Groups))
@pytest.mark.parametrize("weights_of", [one_model, two_models, shared_model])
@torch.inference_mode()
def test_a_step_reads_nothing_back_and_takes_nothing_from_the_host(
    weights_of: Callable[[str], LeanWeights], groups: Groups
) -> None:
    """What a CUDA graph cannot record: a tensor without contents cannot do it either."""
    weights = on(half(lambda: weights_of("llama")), "meta", torch.float16)
    forward = StaticForward(LeanForward(weights))
    forward.allocate(6, CONTEXT)
    with Recorder() as recorder:
        forward.compute(Bucket(4, 256, groups))
    assert len(recorder.operations) > 40
    assert recorder.devices == {"meta"}


@torch.inference_mode()
def test_steps_of_one_shape_do_the_same_whatever_the_numbers() -> None:
    forward = StaticForward(LeanForward(two_models("llama")))
    forward.allocate(8, CONTEXT)
    noted = []
    for rows, lengths, num_first in [
        ([0, 1, 5], [3, 20, 4], 1),
        ([1, 2, 3, 4, 5], [9, 9, 200, 1, 0], 4),
        ([3, 5], [255, 17], 1),
    ]:
        positions = torch.tensor(lengths).unsqueeze(1)
        step = Step(torch.tensor(rows), positions, max(lengths) + 1, num_first)
        bucket = forward.fill(step, torch.ones_like(positions))
        assert bucket == Bucket(6, 256, Groups.BOTH)
        with Recorder() as recorder:
            forward.compute(bucket)
        noted.append(recorder.operations)
    assert noted[0] == noted[1] == noted[2]


@pytest.mark.parametrize(("rows", "num_copies"), [([1, 2, 3], 1), ([0, 2, 3], 2)])
@torch.inference_mode()
def test_a_step_crosses_to_the_device_once_and_once_more_for_rows_apart(
    rows: list[int], num_copies: int
) -> None:
    """Positions went there twice; each crossing costs the host tens of microseconds."""
    weights = on(half(lambda: one_model("llama")), "meta", torch.float16)
    forward = StaticForward(LeanForward(weights))
    forward.allocate(6, CONTEXT)
    is_slice = rows[-1] - rows[0] == len(rows) - 1
    places = slice(rows[0], rows[-1] + 1) if is_slice else torch.tensor(rows)
    step = Step(places, torch.tensor([[3]] * len(rows)), 4, num_first=len(rows))
    with Recorder() as recorder:
        forward.run(step, torch.ones(len(rows), 1, dtype=torch.int64))
    assert recorder.num_crossings == num_copies
