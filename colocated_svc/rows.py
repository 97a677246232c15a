"""Rows of the base model and of reward sessions in one KV cache, run in one forward a step."""

from collections import deque
from collections.abc import Sequence

from torch import Tensor

from reward_svc.prompts import REFERENCE
from reward_svc.stream import Session
from svc_common.lm.runner import SlotRunner
from svc_common.lm.slots import Row


class SharedRows:
    """The base model's part of a runner, for its step model; implements `step_model.Rows`.

    What reward sessions committed rides along with the base model's next step, which so reads the
    weights once for both. Runs on the model thread, but for `commit`.

    Args:
        runner: group 0 runs the reward model, group 1 the base model, which is its reference too.
    """

    def __init__(self, runner: SlotRunner) -> None:
        self._runner = runner
        self._commits: deque[tuple[Session, int]] = deque()
        self._ends: dict[Row, Tensor] = {}

    @property
    def num_free(self) -> int:
        return self._runner.num_free

    @property
    def context_length(self) -> int:
        return self._runner.context_length

    def commit(self, session: Session, token_id: int) -> None:
        """Have a token run on all rows of a session together with the base model's next step."""
        self._commits.append((session, token_id))

    def end(self, row: Row) -> Tensor:
        """Return the last hidden state of a row of the base model: `[1, D]`."""
        return self._ends[row]

    def open(self) -> Row:
        return self._runner.open(REFERENCE)

    def close(self, row: Row) -> None:
        self._runner.close(row)
        self._ends.pop(row, None)

    def append(self, row: Row, token_ids: Sequence[int]) -> Tensor:
        """Run a chunk of a prompt; return the last hidden state `[1, D]`."""
        hidden = self._runner.append(row, token_ids)
        self._ends[row] = hidden
        return hidden

    def decode(self, rows: Sequence[Row], token_ids: Sequence[int]) -> Tensor:
        """Run one token on each row and on those of all sessions that committed: `[B, D]`."""
        commits = self._take_commits()
        guides = [row for session, _ in commits for row in session.rows]
        guide_ids = [token_id for session, token_id in commits for _ in session.rows]
        # Group 0 stands first in the cache: so nothing need be put in order.
        hidden = self._runner.decode([*guides, *rows], [*guide_ids, *token_ids])  # [G + B, D]
        start = 0
        for session, _ in commits:
            end = start + len(session.rows)
            session.hidden = hidden[start:end]  # [R, D]
            session.num_committed += 1
            start = end
        own = hidden[start:]  # [B, D]
        self._ends.update(zip(rows, own.unsqueeze(1).unbind(), strict=True))
        return own

    def _take_commits(self) -> list[tuple[Session, int]]:
        """Return what was committed, without sessions that ended since."""
        taken = [self._commits.popleft() for _ in range(len(self._commits))]
        return [(session, token_id) for session, token_id in taken if not session.is_closed]
