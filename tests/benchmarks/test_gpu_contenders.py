"""Contenders of the GPU benchmark do the real work: tokens and rewards are those of the models."""

import dataclasses
import random
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import gpu
from benchmarks.gpu_contenders import (
    ADAPTER_SEED,
    REWARD_SEED,
    Base,
    Case,
    Contender,
    InTurn,
    Rewards,
    Shared,
)
from benchmarks.gpu_plan import CONTENDERS
from benchmarks.gpu_process import OwnProcess
from benchmarks.random_llama import RandomModel, new_runner, random_model, with_adapter
from svc_common.lm.lean_layers import LeanLayer
from svc_common.lm.linear import Linear, make_linear
from svc_common.lm.loading import DTYPES
from tests.benchmarks.gpu_case import TINY

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def naive_rewards(case: Case, history: list[list[int]], asked: list[Tensor]) -> list[Tensor]:
    """The rewards after each step, sequence by sequence, with the whole vocabulary's logits."""
    model = with_adapter(
        random_model(case.shape, CPU, case.dtype, case.context_length, REWARD_SEED),
        case.shape,
        case.rank,
        ADAPTER_SEED,
    )
    steps = [torch.zeros(ids.shape) for ids in asked]
    for b in range(case.batch_size):
        for group, sign in ((0, 1.0), (1, -1.0)):
            runner = new_runner(model, 1, case.context_length, has_graphs=False)
            row = runner.open(group)
            runner.append(row, list(range(case.prompt_length)))
            for number, token_ids in enumerate(history):
                hidden = runner.append(row, [token_ids[b]])
                logits = hidden.float() @ model.head_weight.float().T  # [1, V]
                chosen = logits[0, asked[number][b]]
                steps[number][b] += sign * chosen.log_softmax(-1)
    return steps


@pytest.mark.slow
def test_the_other_process_gives_what_the_model_gives_here_and_without_batching() -> None:
    rng = random.Random(3)

    def ids(count: int) -> list[int]:
        return rng.sample(range(TINY.shape.vocabulary), count)

    history = [ids(TINY.batch_size) for _ in range(6)]
    asked = [torch.tensor([ids(TINY.top_k) for _ in range(TINY.batch_size)]) for _ in history]
    here = Rewards(TINY)
    base = random_model(TINY.shape, CPU, TINY.dtype, TINY.context_length, seed=1)
    wanted = naive_rewards(TINY, history, asked)
    with OwnProcess(base, TINY) as there:
        for _ in range(2):  # the second time after a rewind
            for token_ids, candidate_ids, reward in zip(history, asked, wanted, strict=True):
                here.commit(token_ids)
                there.commit(token_ids)
                given = there.score(candidate_ids)
                assert torch.equal(given, here.score(candidate_ids))
                torch.testing.assert_close(given, reward, rtol=1e-4, atol=1e-4)
                assert given.abs().max() > 0.01
            here.rewind()
            there.rewind()


@pytest.mark.slow
def test_a_reward_process_that_cannot_start_is_an_error_and_leaves_no_process(
    capfd: pytest.CaptureFixture[str],
) -> None:
    base = random_model(TINY.shape, CPU, TINY.dtype, TINY.context_length, seed=1)
    nowhere = dataclasses.replace(TINY, reward_device="cuda:99")
    own = OwnProcess(base, nowhere)
    with pytest.raises(RuntimeError, match="reward process: ended with 1 before it was ready"):
        own.__enter__()
    assert "cuda" in capfd.readouterr().err.lower()


def test_plain_decoding_takes_the_likeliest_token_with_graphs_or_without() -> None:
    base = random_model(TINY.shape, CPU, TINY.dtype, TINY.context_length, seed=1)
    runner = new_runner(base, 1, TINY.context_length, has_graphs=False)
    row, wanted, token_id = runner.open(1), [], 1
    runner.append(row, list(range(TINY.prompt_length)))
    for _ in range(5):
        hidden = runner.append(row, [token_id])
        token_id = int((hidden @ base.head_weight.T).argmax())
        wanted.append([token_id] * TINY.batch_size)
    for has_graphs in (True, False):
        contender = Base(base, TINY, has_graphs=has_graphs)
        assert [contender.step() for _ in wanted] == wanted


def merged(adapted: RandomModel) -> RandomModel:
    """The model that rows of group 0 run, as one without a change."""

    def plain(linear: Linear, num_in: int) -> Linear:
        columns = linear(torch.eye(num_in), num_in)  # [in, out]
        return make_linear(columns.T.contiguous(), None)

    def changed(layer: LeanLayer) -> LeanLayer:
        sizes = TINY.shape.linears
        parts = {name: plain(getattr(layer, name), size[1]) for name, size in sizes.items()}
        return dataclasses.replace(layer, **parts)

    layers = tuple(changed(layer) for layer in adapted.weights.layers)
    return dataclasses.replace(adapted, weights=dataclasses.replace(adapted.weights, layers=layers))


def test_one_forward_and_two_in_turn_choose_the_same_tokens_and_not_the_bases() -> None:
    """Theta's weights are the base's plus its change, so all ways must agree."""
    base = random_model(TINY.shape, CPU, TINY.dtype, TINY.context_length, seed=1)
    adapted = with_adapter(base, TINY.shape, TINY.rank, seed=4)
    contenders: list[Contender] = [
        Shared(adapted, TINY, has_reference=False),
        Shared(adapted, TINY, has_reference=True),
        InTurn(base, merged(adapted), TINY),
    ]
    given = [[contender.step() for _ in range(8)] for contender in contenders]
    assert given[0] == given[1] == given[2]
    plain = Base(base, TINY)
    assert given[0] != [plain.step() for _ in range(8)]
    for contender, steps in zip(contenders, given, strict=True):
        contender.rewind()
        assert [contender.step() for _ in range(8)] == steps


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_steps_run_in_every_number_format(dtype: str) -> None:
    case = dataclasses.replace(TINY, dtype=DTYPES[dtype])
    with ExitStack() as stack:
        contenders = gpu.build(case, CONTENDERS[:-1], stack)
        assert tuple(contenders) == CONTENDERS[:-1]
        for contender in contenders.values():
            ids = contender.step()
            assert len(ids) == case.batch_size
            assert all(0 <= token_id < case.shape.vocabulary for token_id in ids)


class Modes(TorchDispatchMode):
    """Notes what ran outside of inference mode, and how much ran at all."""

    def __init__(self) -> None:
        super().__init__()
        self.num_operations = 0
        self.outside: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_operations += 1
        if not torch.is_inference_mode_enabled():
            self.outside.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTENDERS)
def test_a_step_runs_in_inference_mode_from_its_start_to_its_end(name: str) -> None:
    with ExitStack() as stack:
        contender = gpu.build(TINY, [name], stack)[name]
        with Modes() as modes:
            contender.step()
    assert modes.num_operations > 0
    assert not modes.outside


def test_rewards_run_in_inference_mode() -> None:
    rewards = Rewards(TINY)
    asked = torch.ones(TINY.batch_size, TINY.top_k, dtype=torch.int64)
    with Modes() as modes:
        rewards.commit([1] * TINY.batch_size)
        rewards.score(asked)
    assert modes.num_operations > 0
    assert not modes.outside
