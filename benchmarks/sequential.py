"""Generator service whose forward and the reward's follow each other: `python -m` this module.

What PAD costs without overlap: the tokens chosen last stay here until their rewards are asked for,
so the reward service begins its forward only when the generator's is over.
"""

import asyncio
import sys
from typing import Any

import generator_svc.__main__ as service
from generator_svc.engine.scorer import RewardSession, ScoredRows, ScoreRows
from generator_svc.reward_client.pool import RewardPool


class HoldingPool(RewardPool):
    """A pool that holds commits back until rewards are asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held: list[RewardSession] = []

    def commit(self, sessions: list[RewardSession]) -> None:
        self._held.extend(sessions)

    def score(self, rows: ScoreRows) -> "asyncio.Future[ScoredRows]":
        held, self._held = self._held, []
        super().commit(held)
        return super().score(rows)


def main() -> int:
    """Run the service with the other pool; return its exit status."""
    service.RewardPool = HoldingPool  # type: ignore[attr-defined]
    return service.main()


if __name__ == "__main__":
    sys.exit(main())
