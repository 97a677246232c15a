"""One session from open to close, so that the first user does not wait for what is made lazily."""

import time

from reward_svc.batcher import Batcher
from reward_svc.messages import CandidateRows, CommitRows, Message, Opening
from reward_svc.model import PersRM
from reward_svc.prompts import REFERENCE, THETA, Plan, RowPrompt, Term, WeightedPreference
from svc_common.trace_context import TraceContext

NUM_TOKENS = 8
PREFERENCE = WeightedPreference("Be brief.", 1.0)
UNSAMPLED = TraceContext(f"00-{1:032x}-{1:016x}-00")  # nobody asked for it: it is in no trace


class WarmUpError(RuntimeError):
    """The model cannot do what it is here for."""


async def warm_up(batcher: Batcher, model: PersRM) -> None:
    """Open a session, commit a token and score candidates, the way a generator does.

    Raises:
        WarmUpError: the model cannot do it.
    """
    token_ids = tuple(range(NUM_TOKENS))
    prompts = [RowPrompt(THETA, token_ids, 0)]
    terms = [Term(0, 1.0, PREFERENCE if model.conditioning.has_vector else None)]
    if model.has_reference:
        prompts.append(RowPrompt(REFERENCE, token_ids, 0))
        terms.append(Term(1, -1.0))
    stream = batcher.intake.open_stream()
    try:
        message = Message(
            openings=(Opening(0, 0, Plan(tuple(prompts), tuple(terms)), (), trace=UNSAMPLED),),
            commits=CommitRows.of([(0, 0, 0, 0)]),
            candidates=CandidateRows.of(1, [(0, 0, 1, (0, 1))], time.perf_counter()),
        )
        await batcher.intake.submit(stream, message)
        for _ in range(2):  # opened, scored
            answer = await stream.next_answer()
            if answer is None or answer.faults:
                raise WarmUpError("warm-up: the model cannot score, see the log")
    finally:
        batcher.intake.end_stream(stream)
