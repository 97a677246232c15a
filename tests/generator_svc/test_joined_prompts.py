"""Prompts that are read beside running answers: one forward a step, nothing else changes."""

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from generator_svc.engine.prompt_reader import PromptReader
from generator_svc.engine.scheduler import Batch
from generator_svc.engine.sequence import Sequence
from generator_svc.engine.step_model import StepModel
from svc_common.lm.head import Head
from svc_common.lm.networks import make_network
from svc_common.lm.prefill_pace import PrefillPace
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.lm.runner import SlotRunner
from svc_common.lm.tokenizer import TextStream
from tests.generator_svc.test_engine import BASE, TOKENIZER
from tests.tiny_model import VOCABULARY_SIZE, tiny_model

CHUNK = 256  # tokens of a step: more than any test needs


@dataclass
class CountingObserver:
    """Counts prompt tokens by where they came from."""

    num_tokens: Counter[str] = field(default_factory=Counter)

    def prompt_tokens(self, source: str, num_tokens: int) -> None:
        self.num_tokens[source] += num_tokens

    def prefix_cache(self, num_tokens: int, num_bytes: int) -> None:
        pass


@dataclass
class Steps:
    """A base model whose steps a test takes one by one."""

    model: nn.Module
    runner: SlotRunner
    steps: StepModel
    observer: CountingObserver

    def run(self, decodes: list[Sequence], prefills: list[Sequence]) -> int:
        """Take a step; return how many forwards it took."""
        before = self.runner.num_forwards
        self.steps.run(Batch(decodes=decodes, prefills=prefills, delays_others=bool(decodes)))
        return self.runner.num_forwards - before

    @torch.inference_mode()
    def check(self, sequence: Sequence) -> int:
        """Compare a sequence's candidates with a full recompute; return the first."""
        assert sequence.candidates is not None
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.token_ids]])
        expected = self.model(input_ids=ids, use_cache=False).logits[0, -1].log_softmax(-1)
        block, row = sequence.candidates.block, sequence.candidates.row
        token_ids = block.token_ids[row]
        assert token_ids.tolist() == expected.topk(len(token_ids)).indices.tolist()
        torch.testing.assert_close(block.logprobs[row], expected[token_ids], rtol=1e-4, atol=1e-4)
        return int(token_ids[0])

    def choose(self, sequence: Sequence) -> None:
        """Append the base's own choice, which the next step is to run."""
        token_id = self.check(sequence)
        sequence.candidates = None
        sequence.token_ids.append(token_id)


def new_steps(kind: str, chunk: int = CHUNK) -> Steps:
    model = tiny_model(seed=1)
    runner = make_network(model.base_model, 256, kind).new_runner(8)
    observer = CountingObserver()
    reader = PromptReader(runner, PrefillPace(chunk, 60.0), PrefixCache(0), observer)
    return Steps(model, runner, StepModel(runner, Head(model), reader), observer)


def new_sequence(prompt_ids: list[int]) -> Sequence:
    return Sequence("x", prompt_ids, BASE, TextStream(TOKENIZER), frozenset())


def prompt(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(6, VOCABULARY_SIZE) for _ in range(length)]


@pytest.mark.parametrize(
    ("kind", "num_forwards", "num_read"), [("lean", 1, 61), ("transformers", 4, 64)]
)
def test_answers_and_all_prompts_of_a_step_run_together(
    kind: str, num_forwards: int, num_read: int
) -> None:
    steps, rng = new_steps(kind, chunk=64), random.Random(1)
    running = [new_sequence(prompt(rng, n)) for n in (9, 23, 4)]
    for decodes, prefills in (([], running), (running, [])):  # what rows take is known then
        steps.run(decodes, prefills)
        for sequence in running:
            steps.choose(sequence)
    new = [new_sequence(prompt(rng, n)) for n in (17, 5, 90)]
    assert steps.run(running, new) == num_forwards
    for sequence in (*running, *new[:2]):
        steps.choose(sequence)
    # As far as the step had time for: with three rows 64 tokens, which no layer has to fill up.
    assert new[2].num_prefilled == num_read - 17 - 5
    assert new[2].candidates is None
    assert steps.run([*running, *new[:2]], new[2:]) == min(num_forwards, 2)
    for sequence in (*running, *new):
        steps.choose(sequence)
    assert steps.run([*running, *new], []) == 1


@pytest.mark.parametrize("kind", ["lean", "transformers"])
def test_samples_of_one_prompt_run_it_once_though_they_come_in_one_step(kind: str) -> None:
    steps, rng = new_steps(kind), random.Random(2)
    running = new_sequence(prompt(rng, 9))
    steps.run([], [running])
    steps.choose(running)
    steps.observer.num_tokens.clear()
    shared = prompt(rng, 60)
    samples = [new_sequence(list(shared)) for _ in range(3)]
    other = new_sequence(prompt(rng, 12))
    before = steps.runner.num_tokens
    steps.run([running], [samples[0], other, *samples[1:]])
    assert steps.runner.num_tokens - before == 1 + 60 + 12 + 2  # one token each is left to run
    assert steps.observer.num_tokens == {"forward": 60 + 12 + 2, "row": 2 * 59, "cache": 0}
    for sequence in (running, *samples, other):
        steps.check(sequence)


def test_rows_run_by_themselves_where_it_is_not_known_what_they_take() -> None:
    steps, rng = new_steps("lean"), random.Random(4)
    running = [new_sequence(prompt(rng, n)) for n in (9, 23, 4)]
    steps.run([], running)
    for sequence in running:
        steps.choose(sequence)
    new = [new_sequence(prompt(rng, n)) for n in (17, 5)]
    assert steps.run(running, new) == 2
    for sequence in (*running, *new):
        steps.choose(sequence)
    assert steps.run([*running, *new], [new_sequence(prompt(rng, 30))]) == 1


def test_prompts_that_share_little_do_not_wait_for_each_other() -> None:
    steps, rng = new_steps("lean"), random.Random(3)
    shared = prompt(rng, 5)
    new = [new_sequence(shared + prompt(rng, 20)) for _ in range(3)]
    assert steps.run([], new) == 1
    for sequence in new:
        steps.check(sequence)
