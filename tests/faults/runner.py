"""Runs scenarios on one stack, one after the other, and says what was broken."""

import asyncio
import time
from dataclasses import dataclass, field

import grpc.aio

from pad.v1 import common_pb2, profile_pb2
from pad.v1.profile_pb2_grpc import ProfileServiceStub
from tests.faults.breaking import break_it
from tests.faults.checker import Checker
from tests.faults.history import History, Progress, observe
from tests.faults.recompute import Recompute
from tests.faults.scenario import PROFILES, Scenario, make_scenario
from tests.faults.stack import FaultStack, NotHealedError, until

ENVIRONMENT = {
    "GENERATOR_REWARD_STEP_TIMEOUT_S": "2.0",
    "GENERATOR_REWARD_OPEN_TIMEOUT_S": "6.0",
}


@dataclass(frozen=True)
class Outcome:
    """What became of a scenario; `broken` is empty if all promises held."""

    scenario: Scenario
    broken: list[str]
    histories: list[History] = field(repr=False)
    seconds: float

    @property
    def longest_pause_s(self) -> float:
        return max((history.longest_pause_s for history in self.histories), default=0.0)

    def report(self) -> str:
        """Return what broke it, what was broken, and how to see it again."""
        faults = "\n".join(f"  {fault}" for fault in self.scenario.faults)
        broken = "\n".join(f"  {sentence}" for sentence in self.broken)
        again = f"python -m tests.faults --seed {self.scenario.seed}"
        return f"seed {self.scenario.seed}\n{faults}\nbroken:\n{broken}\nagain: {again}"


class Runner:
    """Runs scenarios on a stack that it finds and leaves whole."""

    def __init__(self, stack: FaultStack, recompute: Recompute) -> None:
        self._stack = stack
        self.checker = Checker(recompute, stack.versions)

    async def prepare(self) -> None:
        """Store the users' profiles, and start what replaces the first that is killed."""
        await until(self._stores_profiles, "profiles are stored")
        for version in ("a", "b"):
            self._stack.prepare(version)

    async def _stores_profiles(self) -> bool:
        stub = ProfileServiceStub(self._stack.channel)
        for user_id, wishes in PROFILES.items():
            preferences = [common_pb2.Preference(text=text, weight=w) for text, w in wishes]
            request = profile_pb2.PutProfileRequest(user_id=user_id, preferences=preferences)
            try:
                await stub.PutProfile(request, timeout=5.0)
            except grpc.aio.AioRpcError:
                return False  # Redis was late: all share two cores
        return True

    async def run(self, seed: int) -> Outcome:
        """Write the answers of a seed without faults, then with them, and compare."""
        scenario = make_scenario(seed)
        started = time.monotonic()
        twins = await self._observe_all(scenario, Progress())
        broken = self.checker.broken_twins(twins)
        progress = Progress()
        num_tokens = sum(len(twin.tokens) for twin in twins)
        breaking = [
            asyncio.create_task(self._break(fault_at * num_tokens, i, scenario, progress))
            for i, fault_at in enumerate(fault.at for fault in scenario.faults)
        ]
        try:
            histories = await self._observe_all(scenario, progress)
            progress.num_tokens = num_tokens  # what was to break later breaks now
            progress.changed.set()
        finally:
            results = await asyncio.gather(*breaking, return_exceptions=True)
        broken += self.checker.broken(scenario, histories, twins)
        for late in results:
            if isinstance(late, BaseException):
                raise late
            for again in late:
                broken += self.checker.broken(scenario, again, twins)
                histories += again
        try:
            await self._stack.heal()
            if scenario.loses_profiles:
                await until(self._stores_profiles, "profiles are stored again")
        except NotHealedError as fault:
            broken.append(str(fault))
        return Outcome(scenario, broken, histories, time.monotonic() - started)

    async def _observe_all(self, scenario: Scenario, progress: Progress) -> list[History]:
        stub = self._stack.stub
        return await asyncio.gather(*(observe(stub, ask, progress) for ask in scenario.asks))

    async def _break(
        self, num_tokens: float, index: int, scenario: Scenario, progress: Progress
    ) -> list[list[History]]:
        """Carry out a fault; return what those saw who asked during and after a loss of Redis."""
        await progress.reach(num_tokens)
        fault = scenario.faults[index]
        breaking = asyncio.create_task(break_it(self._stack, fault))
        late = []
        if fault.is_loss_of_store:
            late.append(await self._observe_all(scenario, Progress()))
        await breaking
        if fault.is_loss_of_store:
            late.append(await self._observe_all(scenario, Progress()))
        return late
