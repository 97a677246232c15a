"""An answer's reward session: rows of its own, and the base model's where it reads the same."""

from dataclasses import dataclass, replace
from functools import partial

import torch

from generator_svc.engine.scorer import BaseAnswer, RewardContext, RewardSession
from reward_svc import prompts
from reward_svc.messages import Opening
from reward_svc.model import PersRM
from reward_svc.prompts import REFERENCE, Plan
from reward_svc.stream import Session, Stream
from svc_common.errors import InvalidRequestError
from svc_common.lm.tokenizing import Tokenizing


@dataclass(frozen=True, eq=False)
class Placement:
    """A session of `num_rows` own rows.

    `plan` says how the reward is put together; its last prompt has no row of its own where the
    base model's row of the answer `is_shared`.
    """

    session: Session
    num_rows: int
    plan: Plan
    base: BaseAnswer
    is_shared: bool

    def join(self) -> None:
        """Make the base model's row the session's last, once both have read their prompts."""
        session = self.session
        if not self.is_shared or len(session.rows) > self.num_rows:
            return
        row, end = self.base.row, self.base.prompt_end
        assert session.hidden is not None, "session is not ready"
        assert row is not None, "the base model has no row"
        assert end is not None, "the base model has not read its prompt"
        session.rows.append(row)
        session.hidden = torch.cat([session.hidden, end])  # [R, D]
        session.opening = replace(session.opening, plan=self.plan)

    def part(self) -> None:
        """Leave the session its own rows alone, as the base model's is not its to close."""
        del self.session.rows[self.num_rows :]


async def make_plan(context: RewardContext, model: PersRM, tokenizing: Tokenizing) -> Plan:
    """Return what the reward model reads of an answer to be written.

    Long texts become tokens beside the event loop, on which the engine writes all other answers.

    Raises:
        InvalidRequestError: A text holds a control token, or is too long.
        ModelMismatchError: A conversation, but the model has no chat template.
    """
    wishes = tuple(prompts.WeightedPreference(p.text, p.weight) for p in context.preferences)
    reference = prompts.Reference[context.reference.name]
    its = prompts.RewardContext(context.prompt, wishes, reference, context.subject)
    prompts.check_lengths(its, model.tokenizer, model.context_length)
    plan = partial(prompts.plan_session, its, model.tokenizer, model.conditioning)
    return await tokenizing.run(prompts.num_characters(its), plan)


def place(
    owner: RewardSession, plan: Plan, model: PersRM, stream: Stream, max_rows: int
) -> Placement:
    """Return the session of an answer, with the rows that it needs for its plan.

    The reference's row is left out where the base model reads the same prompt: its weights are
    the same.

    Raises:
        InvalidRequestError: It needs more than `max_rows`, or prompt and answer are too long.
    """
    base, written = owner.base, tuple(owner.token_ids)
    assert base is not None
    model.check_length("context", plan.longest + len(written))
    last = plan.prompts[-1]
    is_shared = not written and last.group == REFERENCE and list(last.token_ids) == base.prompt_ids
    own = Plan(plan.prompts[:-1], plan.terms[:-1]) if is_shared else plan
    num_rows = len(own.prompts)
    if num_rows > max_rows:
        rule = f"must fit in REWARD_NUM_SLOTS={max_rows} rows"
        raise InvalidRequestError(f"preferences: {rule}, need {num_rows}")
    session = Session(stream, Opening(0, 0, own, written, owner.context.is_explained))
    return Placement(session, num_rows, plan, base, is_shared)
