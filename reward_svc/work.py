"""What generators want done: candidates of a message to score, and tokens to commit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reward_svc.messages import (
    Answer,
    ByPreference,
    CandidateRows,
    RewardRows,
    RowFault,
    Timings,
)
from reward_svc.stream import Group, Stream
from svc_common.array_fields import pack, unpack


class PendingBatch:
    """Candidates of one message: answered when the last of their rows is scored or failed."""

    def __init__(self, asked: CandidateRows) -> None:
        self.asked = asked
        self.timings = Timings()
        self.num_left = len(asked.counts)
        self._rewards: dict[int, NDArray[np.float32]] = {}
        self._by_preference: ByPreference = {}
        self._faults: dict[int, RowFault] = {}

    def fail(self, row: int, fault: RowFault) -> None:
        """Say that a row failed."""
        assert row not in self._faults, "row was answered twice"
        self._faults[row] = fault
        self.num_left -= 1

    def score(
        self, rows: Sequence[int], rewards: NDArray[np.float32], by_preference: ByPreference
    ) -> None:
        """Give the rewards of rows, one behind the other, and what explains some of them."""
        counts = self.asked.counts
        for i, its in by_preference.items():
            self._by_preference[rows[i]] = its
        if len(rows) == len(counts):
            self._rewards[0] = rewards
        else:
            ends = np.cumsum([counts[row] for row in rows])
            self._rewards.update(zip(rows, np.split(rewards, ends[:-1]), strict=True))
        self.num_left -= len(rows)

    def add_timings(self, taken: float, forward_s: float, select_s: float) -> None:
        """Note when rows were taken to be scored, and what the model spent on them."""
        timings = self.timings
        timings.queue_s = max(timings.queue_s, taken - self.asked.arrived)
        timings.forward_s = max(timings.forward_s, forward_s)
        timings.select_s = max(timings.select_s, select_s)

    def answer(self) -> Answer:
        """Return the answer of a batch that is done, rows in the order they were asked in."""
        asked = self.asked
        faults = [self._faults[row] for row in sorted(self._faults)]
        rewards = b"".join([self._rewards[row].tobytes() for row in sorted(self._rewards)])
        keys = [asked.sessions, asked.epochs, asked.steps, asked.num_candidates]
        if faults:
            rows = sorted(self._rewards)
            columns = [unpack(key) for key in keys]
            keys = [pack([column[row] for row in rows]) for column in columns]
        sessions, epochs, steps, counts = keys
        scored = RewardRows(sessions, epochs, steps, counts, rewards, *self._explanation())
        return Answer(asked.batch_id, scored=scored, faults=faults, timings=self.timings)

    def _explanation(self) -> tuple[bytes, bytes]:
        """Return the fields `num_preferences` and `preference_rewards`, of the rows that came."""
        told = self._by_preference
        if not told:
            return b"", b""
        rows = [row for row in range(len(self.asked.counts)) if row not in self._faults]
        numbers = pack([len(told[row]) if row in told else 0 for row in rows])
        return numbers, b"".join([told[row].tobytes() for row in rows if row in told])


@dataclass(eq=False)
class CommitWork:
    """Tokens `token_ids[i]` for position `steps[i]` of the answer of session i of the group."""

    stream: Stream
    group: Group
    steps: list[int]
    token_ids: list[int]

    def narrow(self, members: Sequence[int]) -> "CommitWork":
        """Return only some of its rows."""
        return replace(
            self,
            group=Group([self.group.sessions[i] for i in members]),
            steps=[self.steps[i] for i in members],
            token_ids=[self.token_ids[i] for i in members],
        )


@dataclass(eq=False)
class ScoreWork:
    """Candidates for position `steps[i]` of session i of the group: row `rows[i]` of the batch."""

    stream: Stream
    group: Group
    steps: list[int]
    batch: PendingBatch
    rows: list[int]

    def narrow(self, members: Sequence[int]) -> "ScoreWork":
        """Return only some of its rows."""
        return replace(
            self,
            group=Group([self.group.sessions[i] for i in members]),
            steps=[self.steps[i] for i in members],
            rows=[self.rows[i] for i in members],
        )
