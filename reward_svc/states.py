"""The last hidden states of sessions: what a forward left behind, and finding one in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from reward_svc.stream import Session


@dataclass(eq=False)
class States:
    """Last hidden states `[B, R, T, D]` of one forward: B sessions of R rows each, T tokens.

    The forward's result stays in one piece: cutting it up by session and putting the pieces
    together again costs more than all else of a step.
    """

    hidden: Tensor

    def __post_init__(self) -> None:
        self.places = list(range(self.hidden.shape[0]))
        self.num_tokens = self.hidden.shape[2]


Found: TypeAlias = tuple[States, int, int]
"""Where a session's hidden state is: (states, token, place)."""


def find(session: "Session", step: int) -> Found | None:
    """Return where the state after `step` answer tokens is, None if it is not kept.

    Kept are those of the session's last forward and the one before them.
    """
    num_back = session.num_committed - step
    if num_back < 0:
        return None
    states = session.states
    if states is None:  # only its prompt was run
        if num_back:
            return None
        assert session.hidden is not None, "session is not ready"
        hidden = session.hidden
        states = session.states = States(hidden.view(1, hidden.shape[0], 1, -1))
    if num_back < states.num_tokens:
        return states, states.num_tokens - 1 - num_back, session.place
    return session.earlier if num_back == states.num_tokens else None


def first_step(session: "Session") -> int:
    """Return the first step whose state is kept."""
    num_tokens = 1 if session.states is None else session.states.num_tokens
    return session.num_committed - num_tokens + (session.earlier is None)


def keep_all(
    sessions: Sequence["Session"], steps: Sequence[int], hidden: Tensor, forward_s: float
) -> None:
    """Note what a forward left: `[N, T, D]`, the rows of one session behind those of another.

    Args:
        sessions: that the forward ran.
        steps: tokens that each had before.
        hidden: last hidden states.
        forward_s: seconds it took.
    """
    counts = [len(session.rows) for session in sessions]
    if counts.count(counts[0]) == len(counts):
        _keep(sessions, steps, _states(hidden, counts[0]), forward_s)
        return
    starts = list(accumulate(counts, initial=0))
    for count in sorted(set(counts)):
        members = [i for i, its in enumerate(counts) if its == count]
        rows = [row for i in members for row in range(starts[i], starts[i + 1])]
        part = hidden.index_select(0, torch.tensor(rows, device=hidden.device))
        its_sessions, its_steps = [sessions[i] for i in members], [steps[i] for i in members]
        _keep(its_sessions, its_steps, _states(part, count), forward_s)


def _states(hidden: Tensor, num_rows: int) -> States:
    """Return the states `[B, R, T, D]` of sessions of R rows each, from `[B * R, T, D]`."""
    return States(hidden.reshape(-1, num_rows, *hidden.shape[1:]))


def _keep(
    sessions: Sequence["Session"], steps: Sequence[int], states: States, forward_s: float
) -> None:
    for place, (session, step) in enumerate(zip(sessions, steps, strict=True)):
        last = session.states
        if last is not None and session.num_committed == step:
            session.earlier = last, last.num_tokens - 1, session.place
        else:
            session.earlier = find(session, step)
        session.states, session.place = states, place
        session.num_committed = step + states.num_tokens
        session.forward_s = forward_s


def gather(sessions: Sequence["Session"], steps: Sequence[int]) -> Tensor:
    """Return the hidden states after `steps[i]` tokens of sessions of R rows each: `[B, R, D]`."""
    states = sessions[0].states
    if (
        states is not None
        and steps == [session.num_committed for session in sessions]
        and [session.states for session in sessions].count(states) == len(sessions)
    ):
        return _select(states.hidden[:, :, -1], states, [session.place for session in sessions])
    members: dict[tuple[States, int], list[int]] = {}
    places = []
    for i, (session, step) in enumerate(zip(sessions, steps, strict=True)):
        found = find(session, step)
        assert found is not None, "the caller checks the step"
        states, token, place = found
        members.setdefault((states, token), []).append(i)
        places.append(place)
    pieces = [
        _select(states.hidden[:, :, token], states, [places[i] for i in its])
        for (states, token), its in members.items()
    ]
    if len(pieces) == 1:
        return pieces[0]
    order = [i for its in members.values() for i in its]
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.tensor(order)] = torch.arange(len(order))
    hidden = torch.cat(pieces)  # [B, R, D]
    return hidden.index_select(0, back.to(hidden.device))


def _select(hidden: Tensor, states: States, places: list[int]) -> Tensor:
    """Return the sessions at `places`: `[B, R, D]`."""
    if places == states.places:
        return hidden
    return hidden.index_select(0, torch.tensor(places, device=hidden.device))
