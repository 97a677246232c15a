"""A session's place on a replica, and the tokens that its replica does not have yet."""

from dataclasses import dataclass

from generator_svc.engine.scorer import RewardSession
from generator_svc.reward_client.wire import CommitRow


@dataclass(eq=False)
class Placement:
    """A session's place on a replica.

    `base_weight` is the weight of the base model's part that the replica leaves to us, as its
    reference is the base model itself; else 0.
    """

    session: RewardSession
    number: int  # the session's number on the stream
    epoch: int
    base_weight: float = 0.0
    is_open: bool = False  # it was ready once


def take_missing(placements: list[Placement]) -> list[CommitRow]:
    """Return the tokens that the replica does not have; from now on it counts as having them."""
    rows = []
    for placement in placements:
        session = placement.session
        for step in range(session.num_committed, len(session.token_ids)):
            rows.append((placement.number, placement.epoch, step, session.token_ids[step]))
            session.num_committed = step + 1
    return rows


def take_guesses(placements: list[Placement], guesses: list[int | None]) -> list[CommitRow]:
    """Return the guessed next tokens; from now on the replica counts as having them."""
    rows = []
    for placement, guess in zip(placements, guesses, strict=True):
        session = placement.session
        step = len(session.token_ids)
        # A guess that the replica has from a question that was late stays.
        if guess is not None and session.num_committed == step:
            rows.append((placement.number, placement.epoch, step, guess))
            session.num_committed = step + 1
    return rows
