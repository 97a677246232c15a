"""Replies written in batches are those of the rule written out, one forward a token."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from evaluation.decoding import Decoder
from evaluation.jobs import Guide, Job, ThetaRow, Written
from evaluation.models import (
    LanguageModel,
    RewardVariant,
    load_language_model,
    load_reward_models,
    reward_variants,
)
from evaluation.reader import PromptStore, Read
from evaluation.step import candidate_kl, full_kl
from reward_svc.preference_head import PreferenceHead, save_preference_head
from svc_common.preference_prompt import ChatMessage, add_preference
from tests.e2e.naive_pad import NaivePad
from tests.tiny_model import save_tiny_model

TEXTS = ("Hi.", "Where?", "A table for two.", "x", "Thanks a lot!")
NUM_TOKENS = 8
MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load_language_model(save_tiny_model(tmp_path_factory.mktemp("base"), seed=1))


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RewardVariant]:
    folder = save_tiny_model(tmp_path_factory.mktemp("theta"), seed=2)
    for seed, name in enumerate(("vector", "both")):
        torch.manual_seed(seed)
        head = PreferenceHead(32, 32, 8)
        torch.nn.init.normal_(head.output.weight, std=0.3)
        save_preference_head(head, folder / f"{name}_head.safetensors")
    return reward_variants(folder)


def read(model: LanguageModel, messages: list[ChatMessage]) -> Read:
    return Read(model, tuple(model.tokenizer.encode_prompt(tuple(messages))))


def plain_read(model: LanguageModel, text: str) -> Read:
    return read(model, [ChatMessage("user", text)])


def guided_job(base: LanguageModel, variant: RewardVariant, text: str, beta: float) -> Job:
    """Return a job with two preferences of different weights."""
    wishes = ("Be brief.", "No questions.")
    plain, vectors = plain_read(base, text), variant.vectors(wishes)
    messages = [ChatMessage("user", text)]
    rows = [
        ThetaRow(
            read(variant.theta, add_preference(messages, wish) if variant.guided else messages),
            weight,
            None if vectors is None else vectors[number],
        )
        for number, (wish, weight) in enumerate(zip(wishes, (0.75, 0.5), strict=True))
    ]
    return Job(plain, plain, 5, Guide(variant, tuple(rows), plain, beta))


def write(jobs: list[Job], num_rows: int = 64) -> list[Written]:
    decoder = Decoder(PromptStore(), num_rows=num_rows, max_new_tokens=NUM_TOKENS)
    written = dict(decoder.write(jobs))
    return [written[number] for number in range(len(jobs))]


@torch.no_grad()
def naive(job: Job) -> tuple[list[int], float]:
    """Return tokens by whole forwards in float32, and the KL over the candidates."""
    guide = job.guide
    assert guide is not None
    assert guide.reference is not None
    tokens: list[int] = []
    kl = 0.0

    def states(read: Read) -> torch.Tensor:
        ids = torch.tensor([[*read.token_ids, *tokens]])
        return read.model.model.base_model(input_ids=ids).last_hidden_state[:, -1]

    while len(tokens) < NUM_TOKENS:
        own = job.speaker.model.logits(states(job.speaker))[0].log_softmax(-1)
        score = own.clone()
        reference = guide.reference.model.logits(states(guide.reference))[0].log_softmax(-1)
        for row in guide.rows:
            vector = None if row.vector is None else row.vector.unsqueeze(0)
            theta = guide.variant.logits(states(row.read), vector)[0].log_softmax(-1)
            score += guide.beta * row.weight * (theta - reference)
        best = own.topk(job.num_candidates).indices
        policy = score[best].softmax(-1)
        kl += float((policy * (policy.log() - own[best].log_softmax(-1))).sum())
        tokens.append(int(best[score[best].argmax()]))
        if tokens[-1] in job.speaker.model.tokenizer.end_of_turn_ids:
            break
    return tokens, kl / len(tokens)


@pytest.mark.parametrize("name", ["prompt", "vector", "both"])
def test_every_conditioning_writes_the_tokens_of_the_rule_written_out(
    base: LanguageModel, variants: dict[str, RewardVariant], name: str
) -> None:
    jobs = [guided_job(base, variants[name], text, 1.5) for text in TEXTS]
    for job, written in zip(jobs, write(jobs), strict=True):
        tokens, kl = naive(job)
        assert written.token_ids == tokens
        assert written.kl_per_token == pytest.approx(kl, abs=1e-4)


def test_another_reference_changes_replies(
    base: LanguageModel, variants: dict[str, RewardVariant], tmp_path: Path
) -> None:
    other = load_language_model(save_tiny_model(tmp_path / "other", seed=5))
    jobs = [guided_job(base, variants["prompt"], text, 1.5) for text in TEXTS]
    moved = []
    for job in jobs:
        assert job.guide is not None
        reference = replace(job.speaker, model=other)
        moved.append(replace(job, guide=replace(job.guide, reference=reference)))
    written = write(moved)
    assert [one.token_ids for one in written] == [naive(job)[0] for job in moved]
    assert [one.token_ids for one in written] != [one.token_ids for one in write(jobs)]


def test_beta_0_is_the_base_model(base: LanguageModel, variants: dict[str, RewardVariant]) -> None:
    guided = [guided_job(base, variants["prompt"], text, 0.0) for text in TEXTS]
    alone = [Job(job.speaker, job.plain, 5) for job in guided]
    assert [w.token_ids for w in write(guided)] == [w.token_ids for w in write(alone)]


def test_a_row_does_not_depend_on_the_batch(
    base: LanguageModel, variants: dict[str, RewardVariant]
) -> None:
    """Neither on who else is in it, nor on when it joins, nor on their beta and K."""
    jobs = [
        replace(guided_job(base, variants["both"], text, beta), num_candidates=count)
        for text in TEXTS
        for beta, count in ((0.5, 3), (3.0, 40))
    ]
    together, few = write(jobs), write(jobs, num_rows=3)
    for job, one, two in zip(jobs, together, few, strict=True):
        (alone,) = write([job])
        assert alone.token_ids == one.token_ids == two.token_ids
        assert alone.kl_per_token == pytest.approx(one.kl_per_token, abs=1e-4)
        assert alone.model_tokens == one.model_tokens


def test_a_kept_prompt_changes_nothing(
    base: LanguageModel, variants: dict[str, RewardVariant]
) -> None:
    jobs = [guided_job(base, variants["prompt"], text, 1.0) for text in TEXTS]
    decoder = Decoder(PromptStore(), max_new_tokens=NUM_TOKENS)
    first, second = dict(decoder.write(jobs)), dict(decoder.write(jobs))
    for number in range(len(jobs)):
        assert first[number].token_ids == second[number].token_ids
        assert second[number].prompt_seconds > 0


def test_kl_of_the_base_to_itself_is_0(base: LanguageModel) -> None:
    reads = [plain_read(base, text) for text in TEXTS]
    assert [w.kl_per_token for w in write([Job(r, r, 10) for r in reads])] == [0.0] * len(TEXTS)


def test_kl_of_another_prompt_is_that_of_the_whole_policies(base: LanguageModel) -> None:
    plain, spoken = plain_read(base, "Hi."), plain_read(base, "Be brief. Hi.")
    (written,) = write([Job(spoken, plain, 10)])
    kls = []
    for number in range(len(written.token_ids)):
        tail = written.token_ids[:number]
        rows = [torch.tensor([[*r.token_ids, *tail]]) for r in (spoken, plain)]
        own, other = (base.model(input_ids=ids).logits[0, -1].log_softmax(-1) for ids in rows)
        kls.append(float((own.exp() * (own - other)).sum()))
    assert written.kl_per_token == pytest.approx(sum(kls) / len(kls), abs=1e-4)
    assert written.kl_per_token > 0.01


def test_cost_counts_every_model_as_the_services_run_it(
    base: LanguageModel, variants: dict[str, RewardVariant]
) -> None:
    job = guided_job(base, variants["vector"], "Hi.", 1.0)
    assert job.guide is not None
    steps = 4
    plain = len(job.plain.token_ids) + steps
    assert Job(job.plain, job.plain, 5).num_model_tokens(steps + 1) == plain
    assert job.num_model_tokens(steps + 1) == 3 * plain  # both wishes share theta's row
    released = replace(job, guide=replace(job.guide, reference=None))
    assert released.num_model_tokens(steps + 1) == 2 * plain
    guided = guided_job(base, variants["prompt"], "Hi.", 1.0)
    assert guided.guide is not None
    theta = [len(row.read.token_ids) + steps for row in guided.guide.rows]
    assert guided.num_model_tokens(steps + 1) == 2 * plain + sum(theta)


def test_a_prompt_without_room_for_a_reply_is_refused(base: LanguageModel) -> None:
    read = plain_read(base, "x" * 600)
    with pytest.raises(ValueError, match="prompt: must fit in 512 tokens"):
        write([Job(read, read, 10)])


def test_kl_over_candidates_ignores_padding() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -torch.inf]])
    scores = torch.tensor([[-1.0, 0.0, -torch.inf]])
    policy = torch.tensor([-1.0, 0.0]).softmax(0)
    base = torch.tensor([-1.0, -2.0]).softmax(0)
    expected = float((policy * (policy.log() - base.log())).sum())
    assert float(candidate_kl(logprobs, logprobs)) == pytest.approx(0, abs=1e-7)
    assert float(candidate_kl(scores, logprobs)) == pytest.approx(expected)
    assert float(full_kl(torch.ones(1, 4), torch.zeros(1, 4))) == pytest.approx(0, abs=1e-7)


@cache
def bundled() -> tuple[NaivePad, LanguageModel, RewardVariant]:
    base = load_language_model(MODELS / "demo-base")
    naive = NaivePad(MODELS / "demo-base", MODELS / "demo-persrm")
    return naive, base, load_reward_models(MODELS)["prompt"]


@pytest.mark.parametrize("rule", ["pad", "pad-released"])
def test_bundled_models_write_the_tokens_of_the_services(rule: str) -> None:
    """The services are compared with the same written-out method in tests/e2e."""
    pad, base, variant = bundled()
    wish, asked, k = "Be formal and polite.", ("A hotel in Paris, please.", "Thank you, bye!"), 10
    jobs, expected = [], []
    for text in asked:
        for beta in (0.8, 1.5):
            plain = plain_read(base, text)
            theta = read(variant.theta, add_preference([ChatMessage("user", text)], wish))
            reference = plain if rule == "pad" else None
            guide = Guide(variant, (ThetaRow(theta, 1.0),), reference, beta)
            jobs.append(Job(plain, plain, k, guide))
            chat = [{"role": "user", "content": text}]
            tokens, gap = pad.generate(rule, chat, wish, beta, k, 12)
            assert gap > 1e-5, "a tie: choose another prompt, rounding decides this one"
            expected.append(tokens)
    written = dict(Decoder(PromptStore(), max_new_tokens=12).write(jobs))
    assert [written[i].token_ids for i in range(len(jobs))] == expected
