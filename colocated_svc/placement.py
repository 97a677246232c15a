"""What an answer's rewards need of the KV cache: rows of its own, or the base model's row."""

from dataclasses import dataclass, replace

import torch

from colocated_svc.rows import SharedRows
from generator_svc.engine.scorer import BaseAnswer, RewardContext
from reward_svc import prompts
from reward_svc.messages import Opening
from reward_svc.model import PersRM
from reward_svc.prompts import REFERENCE, Plan
from reward_svc.stream import Session, Stream

REFERENCES = {one.name: one for one in prompts.Reference}


@dataclass(frozen=True, eq=False)
class Placement:
    """An answer's session.

    `rows` is the session as the cache knows it. `plan` says how the reward is put together; its
    last prompt has no row of its own where the base model's row of the answer `is_shared`.
    """

    rows: Session
    plan: Plan
    base: BaseAnswer
    is_shared: bool

    @property
    def num_rows(self) -> int:
        """Rows it takes, without the base model's."""
        return len(self.rows.opening.plan.prompts)

    def scored(self, shared: SharedRows) -> Session:
        """Return the session with the last hidden states of all of its plan's prompts."""
        if not self.is_shared:
            return self.rows
        assert self.base.row is not None, "the base model has read no prompt"
        assert self.rows.hidden is not None, "session is not ready"
        hidden = torch.cat([self.rows.hidden, shared.end(self.base.row)])  # [R, D]
        opening = replace(self.rows.opening, plan=self.plan)
        return Session(self.rows.stream, opening, hidden=hidden)


def make_plan(context: RewardContext, model: PersRM) -> Plan:
    """Return what the reward model reads of an answer to be written.

    Raises:
        InvalidRequestError: A text holds a control token, or is too long.
        ModelMismatchError: A conversation, but the model has no chat template.
    """
    preferences = tuple(
        prompts.WeightedPreference(preference.text, preference.weight)
        for preference in context.preferences
    )
    its = prompts.RewardContext(context.prompt, preferences, REFERENCES[context.reference.name])
    prompts.check_lengths(its, model.tokenizer, model.context_length)
    return prompts.plan_session(its, model.tokenizer, model.conditioning)


def place(
    context: RewardContext, base: BaseAnswer, written: list[int], model: PersRM, stream: Stream
) -> Placement:
    """Plan a session for the answer `base`, of which `written` is there already.

    The reference's row is left out where the base model reads the same prompt: its weights are
    the same.

    Raises:
        InvalidRequestError: A text holds a control token, or prompt and answer are too long.
        ModelMismatchError: A conversation, but the model has no chat template.
    """
    plan = make_plan(context, model)
    model.check_length("context", plan.longest + len(written))
    last = plan.prompts[-1]
    is_shared = last.group == REFERENCE and list(last.token_ids) == base.prompt_ids
    own = Plan(plan.prompts[:-1], plan.terms[:-1]) if is_shared else plan
    return Placement(Session(stream, Opening(0, 0, own, tuple(written))), plan, base, is_shared)
