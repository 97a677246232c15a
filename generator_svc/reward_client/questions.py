"""Asks replicas for rewards, one message a replica, and lets late ones be late."""

import asyncio
from collections.abc import Callable

import torch
from torch import Tensor

from generator_svc.engine.scorer import RewardSession, SessionState
from generator_svc.reward_client.case import Case
from generator_svc.reward_client.replica import Replica

STRAGGLER_S = 0.25  # the answers of other replicas wait this long for a late one


class Questions:
    """The questions under way. Rewards that come late are kept until they are asked for again.

    Args:
        step_timeout_s: a replica that owes rewards longer than this is given up.
        on_lost: told of a session that its replica did not score.
    """

    def __init__(self, step_timeout_s: float, on_lost: Callable[[Case], None]) -> None:
        self._step_timeout_s = step_timeout_s
        self._on_lost = on_lost
        self._late: set[asyncio.Task[None]] = set()

    async def ask(
        self, groups: dict[Replica, list[Case]], ids: dict[RewardSession, Tensor]
    ) -> None:
        """Get the rewards for candidate ids `[K]` of each session into its case.

        Sessions whose replica is late are marked `is_scoring`.
        """
        tasks = {
            asyncio.create_task(self._ask(replica, cases, ids)): cases
            for replica, cases in groups.items()
        }
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=STRAGGLER_S)
        for task in late:
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            for case in tasks[task]:
                case.session.is_scoring = True

    async def _ask(
        self, replica: Replica, cases: list[Case], ids: dict[RewardSession, Tensor]
    ) -> None:
        rows = [(case.placement, ids[case.session]) for case in cases if case.placement]
        steps = [case.step for case in cases]
        answers = await replica.score(rows, self._step_timeout_s)
        for case, step, (placement, _), rewards in zip(cases, steps, rows, answers, strict=True):
            session = case.session
            was_late, session.is_scoring = session.is_scoring, False
            if rewards is not None:
                case.num_failures = 0
                case.answer = (step, torch.from_numpy(rewards.copy()))
            elif case.placement is placement and session.state is SessionState.OPEN:
                self._on_lost(case)
            if was_late:
                session.on_change()
