"""A step's question and its answer: what is done between them, and what happens meanwhile."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generator_svc.decoding.candidates import CandidateRow, Candidates
from generator_svc.decoding.choice import RowParams
from generator_svc.decoding.strategies import Reference
from generator_svc.engine.chooser import Chooser, Chosen, Proposal
from generator_svc.engine.scorer import RewardSession, ScoredRows, ScoreRows, SessionState
from generator_svc.engine.sequence import GenerationParams, Sequence
from svc_common.lm.tokenizer import TextStream
from tests.generator_svc.test_engine import BASE, TOKENIZER, QuietObserver, guided

V, P = 50, 2  # vocabulary; preferences of `guided`
EXPLAINED = guided("x", "wish")
assert EXPLAINED.reward_context is not None
EXPLAINED = replace(EXPLAINED, reward_context=replace(EXPLAINED.reward_context, is_explained=True))


@dataclass
class Scripted:
    """Implements `RewardScorer.score`: answers when a test says so, by session and candidate.

    A session gives a candidate the same whoever else is asked about. Those in `lost` get none.
    """

    is_prompt: bool = True
    lost: set[int] = field(default_factory=set)  # places in a question
    on_ask: Callable[[], object] = lambda: None
    asked: list[tuple[ScoreRows, "asyncio.Future[ScoredRows]"]] = field(default_factory=list)

    def score(self, rows: ScoreRows) -> "asyncio.Future[ScoredRows]":
        self.asked.append((rows, asyncio.get_running_loop().create_future()))
        self.on_ask()
        if self.is_prompt:
            self.answer()
        return self.asked[-1][1]

    def answer(self) -> None:
        rows, future = self.asked[-1]
        rewards = torch.zeros(rows.token_ids.shape)
        scored = ScoredRows(rewards, [i not in self.lost for i in range(len(rows.sessions))])
        for i, session in enumerate(rows.sessions):
            if i in self.lost:
                session.state = SessionState.OPENING
                continue
            ids = rows.token_ids[i, : rows.counts[i]]
            parts = torch.stack([torch.sin(ids * (j + len(session.model_version))) for j in (2, 5)])
            rewards[i, : rows.counts[i]] = parts.sum(0)
            if session.context.is_explained:
                scored.by_preference[i] = parts
        future.set_result(scored)


def sequence(number: int, params: GenerationParams, kind: type[Sequence] = Sequence) -> Sequence:
    """Return a sequence with candidates of its own, and an open session if it is guided."""
    generator = torch.Generator().manual_seed(number)
    best = torch.randn(1, V, generator=generator).log_softmax(-1).topk(params.top_k)
    made = kind(
        request_id=str(number),
        prompt_ids=[1],
        params=params,
        text=TextStream(TOKENIZER, ()),
        end_of_turn_ids=frozenset(),
        token_ids=[3] * (number % 4),
        candidates=CandidateRow(Candidates(best.indices, best.values), 0, params.top_k),
    )
    if params.reward_context is not None and params.is_guided:
        version = "v" * (1 + number % 3)
        made.session = RewardSession(params.reward_context, made.token_ids, lambda: None)
        made.session.state, made.session.model_version = SessionState.OPEN, version
    return made


def chooser(scorer: Scripted) -> Chooser:
    return Chooser(scorer, QuietObserver())  # type: ignore[arg-type]


def told(one: Chosen) -> tuple[tuple[object, ...], list[float]]:
    """Return all that a reader may learn of a token, rewards apart: they are rounded by width."""
    choices, row, k = one.choices, one.row, one.sequence.params.top_k
    said = (
        *(one.token_id, one.is_guided, choices.columns[row] != choices.base_columns[row]),
        *(choices.base_token_ids[row], choices.logprobs[row], one.explanation()),
    )
    return said, [choices.chosen_rewards[row], *choices.rewards[row, :k].tolist()]


async def test_the_question_leaves_before_the_choice_is_prepared_and_that_before_the_answer() -> (
    None
):
    events: list[str] = []
    prepared = asyncio.Event()

    class Watched(Sequence):
        def row_params(self, *, is_guided: bool) -> RowParams:
            events.append("prepared")
            prepared.set()
            return super().row_params(is_guided=is_guided)

    def on_ask() -> None:  # a task that writes to a stream is woken so
        asyncio.get_running_loop().call_soon(events.append, "sent")

    scorer = Scripted(is_prompt=False, on_ask=on_ask)
    rows = [sequence(1, EXPLAINED, Watched), sequence(2, BASE, Watched)]
    choosing = asyncio.ensure_future(chooser(scorer).choose(Proposal(rows)))
    await prepared.wait()
    assert events == ["sent", "prepared", "prepared"]
    assert not choosing.done()
    scorer.answer()
    assert len(await choosing) == 2
    assert len(events) == 3  # nothing is done twice


async def test_a_step_without_guided_rows_asks_nobody() -> None:
    scorer = Scripted()
    (one,) = await chooser(scorer).choose(Proposal([sequence(1, BASE)]))
    assert (scorer.asked, one.is_guided) == ([], False)


async def test_a_session_lost_between_question_and_answer_keeps_its_candidates() -> None:
    rows = [sequence(number, EXPLAINED) for number in (1, 2, 3)]
    rows.insert(1, sequence(4, BASE))
    asked = asyncio.Event()
    # The second that is asked about is lost.
    scorer = Scripted(is_prompt=False, lost={1}, on_ask=asked.set)
    choosing = asyncio.ensure_future(chooser(scorer).choose(Proposal(rows)))
    await asked.wait()
    lost = rows[2]
    assert lost.session is not None
    lost.session.state = SessionState.OPENING  # known before the choice is prepared
    scorer.answer()
    chosen = await choosing
    assert [one.sequence for one in chosen] == [rows[0], rows[1], rows[3]]
    assert [one.is_guided for one in chosen] == [True, False, True]
    assert lost.candidates is not None


async def test_where_every_session_is_lost_nothing_is_chosen() -> None:
    rows = [sequence(number, EXPLAINED) for number in (1, 2)]
    assert await chooser(Scripted(lost={0, 1})).choose(Proposal(rows)) == []


KINDS = st.builds(
    dict,
    reference=st.sampled_from(Reference),
    is_explained=st.booleans(),
    is_guided=st.booleans(),
    is_lost=st.booleans(),
    beta=st.sampled_from([0.0, 0.5, 2.0]),
    top_k=st.integers(1, 12),
    temperature=st.sampled_from([0.0, 0.0, 0.7]),
    top_p=st.sampled_from([1.0, 0.8]),
    seed=st.integers(0, 2**64 - 1),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(KINDS, min_size=1, max_size=6))
def test_a_token_and_what_is_told_of_it_depend_on_no_other_row(
    kinds: list[dict[str, object]],
) -> None:
    """Guided or not, explained or not, of any K and reference, whoever is lost meanwhile."""
    is_lost = [bool(kind.pop("is_lost")) for kind in kinds]
    params = []
    for kind in kinds:
        is_explained, is_guided = kind.pop("is_explained"), kind.pop("is_guided")
        one = guided("x", "wish", **kind)
        assert one.reward_context is not None
        context = replace(one.reward_context, is_explained=bool(is_explained))
        params.append(replace(one, reward_context=context if is_guided else None))

    async def choose(rows: list[Sequence], lost: list[bool]) -> list[Chosen]:
        proposal = Proposal(rows)
        asked = [i for i, is_scored in enumerate(proposal.is_scored) if is_scored]
        places = {place for place, i in enumerate(asked) if lost[i]}
        return await chooser(Scripted(lost=places)).choose(proposal)

    async def both() -> None:
        rows = [sequence(number, each) for number, each in enumerate(params)]
        together = {one.sequence: told(one) for one in await choose(rows, is_lost)}
        for number, row in enumerate(rows):
            is_there = not (is_lost[number] and params[number].is_guided)
            assert (row in together) is is_there
            if is_there:
                (alone,) = await choose([sequence(number, params[number])], [False])
                said, rewards = together[row]
                assert said == told(alone)[0]
                assert rewards == pytest.approx(told(alone)[1], abs=1e-4)

    asyncio.run(both())


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("is_answered", [True, False])
async def test_a_choice_that_is_cancelled_leaves_nothing_behind(
    turns: int, is_answered: bool
) -> None:
    """Before it asked, while the question leaves, and while it waits: warnings are errors."""
    scorer = Scripted(is_prompt=False)
    rows = [sequence(1, EXPLAINED)]
    choosing = asyncio.ensure_future(chooser(scorer).choose(Proposal(rows)))
    for _ in range(turns):
        await asyncio.sleep(0)
    choosing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await choosing
    assert rows[0].candidates is not None
    assert rows[0].session is not None
    assert rows[0].session.state is SessionState.OPEN
    if scorer.asked and is_answered and not scorer.asked[-1][1].done():
        scorer.answer()
    assert asyncio.all_tasks() == {asyncio.current_task()}
