"""One forward a step for the base model's rows and those of all reward sessions."""

import time
from collections.abc import Sequence

from torch import Tensor

from reward_svc import states
from reward_svc.stream import Session
from svc_common.lm.runner import Extension, SlotRunner
from svc_common.lm.slots import Row


class SharedRows:
    """A runner as the base model's steps use it; implements `step_model.Rows`.

    What reward sessions commit rides along with the base model's next step, which so reads the
    weights once for both. Runs on the model thread, but for `commit`.
    """

    def __init__(self, runner: SlotRunner) -> None:
        self._runner = runner
        self._sessions: list[Session] = []
        self._token_ids: list[int] = []

    @property
    def num_free(self) -> int:
        return self._runner.num_free

    @property
    def context_length(self) -> int:
        return self._runner.context_length

    @property
    def joins(self) -> bool:
        return self._runner.joins

    def commit(self, session: Session, token_id: int) -> None:
        """Have a token run on all rows of a session in the step that the engine begins next."""
        self._sessions.append(session)
        self._token_ids.append(token_id)

    def truncate(self, row: Row, length: int) -> None:
        self._runner.truncate(row, length)

    def extend_each(self, extensions: Sequence[Extension]) -> list[Tensor]:
        return self._runner.extend_each(extensions)

    def decode_beside(
        self, rows: Sequence[Row], token_ids: Sequence[int], others: Sequence[Extension]
    ) -> tuple[Tensor, list[Tensor]]:
        """Run one token on each row and on those of all sessions that committed: `[B, D]`.

        A row that a session reads too is run once.

        Args:
            rows: the base model's.
            token_ids: one each.
            others: what is run beside them: see `SlotRunner.extend_each`.
        """
        sessions, committed = self._sessions, self._token_ids
        self._sessions, self._token_ids = [], []
        if not sessions:
            return self._runner.decode_beside(rows, token_ids, others)
        started = time.perf_counter()
        pairs = zip(sessions, committed, strict=True)
        tokens = {row: token_id for session, token_id in pairs for row in session.rows}
        num_guides = len(tokens)
        tokens.update(zip(rows, token_ids, strict=True))
        hidden, theirs = self._runner.decode_beside(list(tokens), list(tokens.values()), others)
        steps = [session.num_committed for session in sessions]
        seconds = time.perf_counter() - started
        states.keep_all(sessions, steps, hidden[:num_guides].unsqueeze(1), seconds)
        places = {row: place for place, row in enumerate(tokens)}
        return hidden[[places[row] for row in rows]], theirs
