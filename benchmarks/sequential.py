"""Generator service whose forward and the reward's follow each other: `python -m` this module.

What PAD costs without overlap: the tokens chosen last stay here until their rewards are asked for,
so the reward service begins its forward only when the generator's is over.
"""

import sys

from torch import Tensor

import generator_svc.__main__ as service
from generator_svc.engine.scorer import RewardSession
from generator_svc.reward_client.pool import RewardPool


class HoldingPool(RewardPool):
    """A pool that holds commits back until rewards are asked for."""

    _held: tuple[RewardSession, ...] = ()

    def commit(self, rows: list[RewardSession]) -> None:
        self._held += tuple(rows)

    async def score(self, rows: list[tuple[RewardSession, Tensor]]) -> list[Tensor | None]:
        held, self._held = self._held, ()
        super().commit(list(held))
        return await super().score(rows)


def main() -> int:
    """Run the service with the other pool; return its exit status."""
    service.RewardPool = HoldingPool  # type: ignore[attr-defined]
    return service.main()


if __name__ == "__main__":
    sys.exit(main())
