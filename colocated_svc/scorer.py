"""Rewards of the engine's steps from the model that runs beside the base model."""

import torch
from torch import Tensor

from colocated_svc.placement import Placement, place
from colocated_svc.rows import SharedRows
from colocated_svc.work import Work
from generator_svc.engine.scorer import BaseAnswer, RewardContext, RewardSession, SessionState
from generator_svc.engine.sequence import Sequence
from reward_svc.sessions import SessionCache
from reward_svc.stream import Session, Stream
from svc_common.errors import InvalidRequestError, OverloadedError, ServiceError
from svc_common.lm.model_thread import ModelThread


class ColocatedScorer:
    """Implements `engine.scorer.RewardScorer`, and says to the scheduler what has room.

    Args:
        cache: of the reward model; the base model runs on its runner too.
        shared: the base model's rows of that runner.
        thread: the model thread.
        num_rows: rows that sessions may take together.
        max_waiting: most whole answers that wait to be scored.
    """

    def __init__(
        self,
        cache: SessionCache,
        shared: SharedRows,
        thread: ModelThread,
        *,
        num_rows: int,
        max_waiting: int,
    ) -> None:
        self._cache = cache
        self._shared = shared
        self._num_rows = num_rows
        self._num_free = num_rows
        self._reserved: dict[BaseAnswer, Placement | ServiceError] = {}
        self._planned: tuple[Sequence, Placement | ServiceError] | None = None  # waits for room
        self._placements: dict[RewardSession, Placement] = {}
        self._owners: dict[Session, RewardSession] = {}
        self._stream = Stream()  # a session must have one; nothing is sent on it
        self.work = Work(cache, thread, max_waiting=max_waiting, on_ready=self._open_is_done)

    @property
    def is_available(self) -> bool:
        return True

    @property
    def num_free(self) -> int:
        """Rows that no session has reserved."""
        return self._num_free

    @property
    def model_version(self) -> str:
        return self._cache.model.version

    def reserve(self, sequence: Sequence) -> bool:
        """Take the rows of a sequence's session, all or none, before it is admitted.

        So nobody holds rows while waiting for more. What can never have its rows is admitted too:
        opening its session then fails.
        """
        context = sequence.params.reward_context
        if context is None or not sequence.params.is_guided:
            return True
        if self._planned is None or self._planned[0] is not sequence:
            self._planned = sequence, self._place(context, sequence, sequence.token_ids)
        placement = self._planned[1]
        if not self._take(placement):
            return False
        self._reserved[sequence] = placement
        self._planned = None
        return True

    def open(self, session: RewardSession) -> None:
        """Begin to read the session's prompts."""
        assert session.base is not None
        placement = self._reserved.pop(session.base, None)
        if placement is None:  # its answer goes on without rewards
            placement = self._place(session.context, session.base, session.token_ids)
            if not self._take(placement):
                placement = OverloadedError("REWARD_NUM_SLOTS: all rows are in use")
        if isinstance(placement, ServiceError):
            session.state, session.error = SessionState.FAILED, placement
            session.on_change()
            return
        session.state = SessionState.OPENING
        self._placements[session] = placement
        self._owners[placement.rows] = session
        self.work.open(placement.rows)

    def commit(self, rows: list[RewardSession]) -> None:
        """Have the last tokens run in the forward that the engine begins next."""
        for session in rows:
            step = session.num_committed
            if step < len(session.token_ids):
                self._shared.commit(self._placements[session].rows, session.token_ids[step])
                session.num_committed += 1

    async def score(self, rows: list[tuple[RewardSession, Tensor]]) -> list[Tensor | None]:
        """Return rewards at once: the forward that they need has run."""
        asked = [
            (self._placements[session].scored(self._shared), ids.numpy()) for session, ids in rows
        ]
        return [torch.from_numpy(rewards) for rewards in self._cache.score(asked)]

    def close(self, session: RewardSession) -> None:
        """End a session, whatever its state; its rows may be reserved again at once."""
        session.state = SessionState.CLOSED
        placement = self._placements.pop(session, None)
        if placement is not None:
            del self._owners[placement.rows]
            self._num_free += placement.num_rows
            self.work.close(placement.rows)

    def _open_is_done(self, rows: Session) -> None:
        session = self._owners[rows]
        plan = self._placements[session].plan
        session.num_committed = rows.num_committed
        session.model_version = self._cache.model.version
        session.max_answer_tokens = self._cache.model.context_length - plan.longest
        session.state = SessionState.OPEN
        session.on_change()

    def _place(
        self, context: RewardContext, base: BaseAnswer, written: list[int]
    ) -> Placement | ServiceError:
        """Plan a session, or say why it can never be opened."""
        try:
            placement = place(context, base, written, self._cache.model, self._stream)
        except ServiceError as error:
            return error
        if placement.num_rows > self._num_rows:
            rule = f"must fit in REWARD_NUM_SLOTS={self._num_rows} rows"
            return InvalidRequestError(f"preferences: {rule}, need {placement.num_rows}")
        return placement

    def _take(self, placement: Placement | ServiceError) -> bool:
        """Take the rows of a session; False if they are not free."""
        num_rows = placement.num_rows if isinstance(placement, Placement) else 0
        if num_rows > self._num_free:
            return False
        self._num_free -= num_rows
        return True
