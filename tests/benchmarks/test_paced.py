"""A paced model gives what its script says, through the real services, and waits without work."""

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.make_models import BASE, pair_dir
from benchmarks.options import Options
from benchmarks.paced import generator, reward
from benchmarks.paced.forward import (
    NUM_STATES,
    Pace,
    PacedForward,
    place_in_script,
    script,
)
from benchmarks.prompts import pair_tokenizer
from benchmarks.stacks import running
from benchmarks.suites.paced import paced_stack
from pad_client import GeneratorClient
from svc_common.lm.forward import Step
from svc_common.lm.head import Head
from svc_common.lm.loading import load_model
from svc_common.lm.runner import SlotRunner
from svc_common.preference_prompt import guide_text

PROMPT, WISH, NUM_TOKENS, K = "abcabc", "Be brief.", 12, 10
BETA = 1.0


def load_head(folder: Path) -> Head:
    loaded = load_model(folder, dtype="float32", device="cpu", context_length=64, setting="x")
    return loaded.head()


def written_out(pair: Path, *, is_guided: bool) -> list[int]:
    """Write the answer from the two scripts with a loop that knows no service."""
    tokenizer = pair_tokenizer(pair)
    base, theta = load_head(pair / BASE), load_head(pair / "demo-persrm")
    base_states = script(32, generator.SEED)
    theta_states = script(32, reward.SEED)
    prompt = tokenizer.encode_prompt(PROMPT)
    guided = tokenizer.encode_prompt(guide_text(PROMPT, WISH))
    answer: list[int] = []

    def state(states: Tensor, ids: list[int]) -> Tensor:
        place = place_in_script(torch.tensor(ids[-1]), torch.tensor(len(ids) - 1))
        return states[place].unsqueeze(0)

    for _ in range(NUM_TOKENS):
        best = base.logits(state(base_states, prompt + answer))[0].log_softmax(-1).topk(K)
        score = best.values
        if is_guided:  # (1 - beta) base + beta theta, each over the candidates
            logits = theta.logits(state(theta_states, guided + answer))[0, best.indices]
            score = (1 - BETA) * best.values.log_softmax(-1) + BETA * logits.log_softmax(-1)
        answer.append(int(best.indices[score.argmax()]))
    return answer


def test_real_services_write_what_the_scripts_say(cache: Path) -> None:
    plan = paced_stack(Options(cache=cache), 4, Pace(0.001), Pace(0.001))
    answers = []
    with running({"paced": plan}) as stacks, GeneratorClient(stacks["paced"].address) as client:
        for strategy in ("base", "pad-released"):
            answer = client.complete(
                prompt=PROMPT,
                strategy=strategy,
                preferences=[] if strategy == "base" else [WISH],
                beta=BETA,
                top_k=K,
                max_tokens=NUM_TOKENS,
                ignore_end_of_turn=True,
            )
            answers.append([token.token_id for token in answer.tokens])
    pair = pair_dir("paced-full", cache)
    assert answers[0] == written_out(pair, is_guided=False)
    assert answers[1] == written_out(pair, is_guided=True)
    assert answers[0] != answers[1]


def test_a_forward_waits_its_pace_without_the_cpu() -> None:
    forward = PacedForward(script(8, 0), Pace(0.1, 0.05))
    ids = torch.zeros(2, 1, dtype=torch.int64)
    step = Step(slice(0, 2), torch.zeros_like(ids), 1, 2)
    started, used = time.monotonic(), time.thread_time()
    forward.run(step, ids)
    assert time.monotonic() - started >= 0.2  # at least: a sleep is never shorter
    assert time.thread_time() - used < 0.1


def test_the_output_depends_on_token_and_position_alone() -> None:
    states = script(8, 0)
    whole = SlotRunner(PacedForward(states, Pace(0.0)), num_slots=3, context_length=64)
    ids = [5, 6, 7, 8, 9]
    hidden = whole.append(whole.open(), ids, all_positions=True)
    other = whole.open()
    steps = [whole.append(other, ids[:2])[0]]
    steps += [whole.decode([other], [token_id])[0] for token_id in ids[2:]]
    assert torch.equal(hidden[1:], torch.stack(steps))
    assert torch.equal(hidden[0], states[5 * 31 % NUM_STATES])


def test_a_pace_travels_through_the_environment() -> None:
    pace = Pace(0.01, 0.002)
    assert Pace.from_environment(pace.variables) == pace
    with pytest.raises(KeyError):
        Pace.from_environment({})
