"""From a started process to one that takes calls: a request has passed through all it needs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from generator_svc.deadline import Deadline
from generator_svc.generation import Generator
from generator_svc.planning import Origin
from generator_svc.profiles import ProfileStore
from generator_svc.request_parsing import RequestLimits, parse_request
from pad.v1 import common_pb2, generator_pb2
from svc_common.errors import (
    InvalidRequestError,
    OverloadedError,
    ProfileNotFoundError,
    ServiceError,
)
from svc_common.health import Health

logger = logging.getLogger(__name__)

RETRY_S = 0.5
USER_ID = "warm-up"  # looked up, never written: that the store answers is enough
BASE = generator_pb2.GenerateRequest(
    prompt="Hello",
    strategy=generator_pb2.STRATEGY_BASE,
    top_k=1,
    temperature=0.0,
    ignore_end_of_turn=True,
)
GUIDED = generator_pb2.GenerateRequest(
    prompt="Hello",
    preferences=[common_pb2.Preference(text="Be brief.")],
    strategy=generator_pb2.STRATEGY_PAD_RELEASED,  # whose reference every reward model offers
    beta=1.0,
    top_k=1,
    temperature=0.0,
    ignore_end_of_turn=True,
)


@dataclass(frozen=True)
class WarmUp:
    """Turns health to SERVING, service by service.

    The base model must write. Profile store and rewards are then tried until they answer: the
    profile service takes calls with the store; the generator, and with it the process, once a
    guided answer has been written. Neither may keep a generator from serving for good, which
    answers what asks for the base model, or may fall back to it: after `wait_s` it serves without.

    Attributes:
        note: Told of each part (base, store, rewards) whether a request has passed through it.
        has_rewards: Whether there are rewards to wait for.
        generator_service: Health's name of what writes answers.
        profile_service: Health's name of what keeps profiles.
    """

    generator: Generator
    store: ProfileStore
    limits: RequestLimits
    health: Health
    note: Callable[[str, bool], None]
    tenant: str
    has_rewards: bool
    wait_s: float
    generator_service: str
    profile_service: str

    async def run(self) -> None:
        """Work until everything has answered once."""
        parts: dict[str, Callable[[], Awaitable[None]]] = {"store": self._ask_store}
        if self.has_rewards:
            parts["rewards"] = self._write_guided
        for part in ("base", *parts):
            self.note(part, False)
        await self._write(BASE)
        self.note("base", True)

        async def passed(part: str) -> None:
            await _repeat(part, parts[part])
            self.note(part, True)
            if part == "store":
                self.health.set_serving(True, self.profile_service)

        async with asyncio.TaskGroup() as group:
            waiting = {group.create_task(passed(part), name=part) for part in parts}
            _, late = await asyncio.wait(waiting, timeout=self.wait_s)
            if late:
                missing = sorted(task.get_name() for task in late)
                logger.warning("serving before all has answered", extra={"missing": missing})
            self.health.set_serving(True, "", self.generator_service)

    async def _ask_store(self) -> None:
        try:
            await self.store.get(self.tenant, USER_ID)
        except ProfileNotFoundError:
            return

    async def _write_guided(self) -> None:
        try:
            await self._write(GUIDED)
        except (InvalidRequestError, OverloadedError) as error:  # no room for it: they did answer
            logger.warning("warm-up refused", extra={"reason": str(error)})

    async def _write(self, message: generator_pb2.GenerateRequest) -> None:
        sent = generator_pb2.GenerateRequest(max_tokens=min(2, self.limits.max_tokens))
        sent.MergeFrom(message)
        request = parse_request(sent, self.limits)
        answer = self.generator.answer(request, Origin("warm-up", self.tenant, Deadline()))
        async with aclosing(answer) as events:
            async for _ in events:
                pass


async def _repeat(part: str, ask: Callable[[], Awaitable[None]]) -> None:
    """Ask until an answer comes; each new reason why none does is logged."""
    told = ""
    while True:
        try:
            await ask()
        except ServiceError as error:
            if str(error) != told:
                told = str(error)
                logger.warning("not ready yet", extra={"part": part, "reason": told})
            await asyncio.sleep(RETRY_S)
        else:
            return
