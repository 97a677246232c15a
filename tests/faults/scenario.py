"""From a seed to what is asked and what breaks meanwhile; the same seed, the same of both."""

import random
from dataclasses import dataclass

from pad.v1 import common_pb2, generator_pb2

WISHES = ("Be brief.", "Sound excited!", "Be formal.", "Write like a sailor.")
PLACES = ("sea", "moon", "market", "harbour", "library", "desert")
PROFILES = {
    "ann": ((WISHES[0], 1.0),),
    "bob": ((WISHES[1], 0.7), (WISHES[3], 1.3)),
}
STRATEGIES = {
    "base": generator_pb2.STRATEGY_BASE,
    "pad": generator_pb2.STRATEGY_PAD,
    "pad-released": generator_pb2.STRATEGY_PAD_RELEASED,
}
GARBLES = ("nan", "short", "step", "epoch", "session", "empty")

NETWORK = ("delay", "silence", "cut", "refuse", "throttle", "slice")
STORE = ("kill", "lose")  # back with what its file holds, or empty, as one that writes none
PROCESS = ("kill", "stop", "term", "version")
ANSWERS = ("delay", "drop", "duplicate", "garble", "error-before", "error-after")
REQUESTS = ("delay", "duplicate")  # a stream never loses one


@dataclass(frozen=True)
class Ask:
    """A request, and after how many tokens its caller hangs up (None: never)."""

    strategy: str
    text: str
    preferences: tuple[tuple[str, float], ...]
    user_id: str
    beta: float
    top_k: int
    temperature: float
    seed: int
    max_tokens: int
    falls_back: bool
    ends_turn: bool
    cancel_after: int | None = None

    @property
    def is_guided(self) -> bool:
        return self.strategy != "base"

    @property
    def wishes(self) -> tuple[tuple[str, float], ...]:
        """The preferences that apply, with their weights."""
        return PROFILES[self.user_id] if self.user_id else self.preferences

    def message(self) -> generator_pb2.GenerateRequest:
        """Return it as it is sent."""
        unguided = generator_pb2.FALLBACK_POLICY_UNGUIDED
        return generator_pb2.GenerateRequest(
            chat=common_pb2.Chat(messages=[common_pb2.ChatMessage(role="user", content=self.text)]),
            user_id=self.user_id,
            preferences=[
                common_pb2.Preference(text=text, weight=weight) for text, weight in self.preferences
            ],
            beta=self.beta,
            top_k=self.top_k,
            temperature=self.temperature,
            seed=self.seed,
            max_tokens=self.max_tokens,
            strategy=STRATEGIES[self.strategy],
            fallback=unguided if self.falls_back else generator_pb2.FALLBACK_POLICY_FAIL,
            detail=generator_pb2.DETAIL_CANDIDATES,
            ignore_end_of_turn=not self.ends_turn,
        )


@dataclass(frozen=True)
class Fault:
    """What breaks once `at` of all tokens came, and for how long (0: it happens once).

    `place` is "network", "process" or "answers" of replica `index`, "requests" of the generator
    on their way to any replica, or "redis".
    """

    at: float
    place: str
    index: int
    kind: str
    lasts_s: float = 0.0
    times: int = 0  # messages that are broken
    detail: str = ""

    @property
    def is_loss_of_store(self) -> bool:
        """Whether Redis is killed and started again."""
        return self.place == "redis" and self.kind in STORE


@dataclass(frozen=True)
class Scenario:
    """Requests that start together and what breaks meanwhile."""

    seed: int
    asks: tuple[Ask, ...]
    faults: tuple[Fault, ...]

    @property
    def loses_profiles(self) -> bool:
        """Whether Redis comes back without them."""
        return any(fault.is_loss_of_store and fault.kind == "lose" for fault in self.faults)

    @property
    def hits_all_replicas(self) -> bool:
        """Whether, for a while, no replica may be able to answer."""
        hit = {fault.index for fault in self.faults if fault.place != "redis"}
        return len(hit) > 1 or any(fault.place == "requests" for fault in self.faults)


def make_scenario(seed: int) -> Scenario:
    """Return what a seed stands for."""
    dice = random.Random(seed)
    asks = tuple(_ask(dice) for _ in range(dice.randint(3, 8)))
    index = dice.randrange(2)
    hits_both = dice.random() < 0.25
    faults = [
        _fault(dice, dice.randrange(2) if hits_both else index)
        for _ in range(dice.choice((1, 1, 2, 3)))
    ]
    return Scenario(seed, asks, tuple(sorted(faults, key=lambda fault: fault.at)))


def _ask(dice: random.Random) -> Ask:
    strategy = dice.choice(("base", "pad", "pad", "pad-released", "pad-released"))
    user_id = dice.choice(("", "", *PROFILES)) if strategy != "base" else ""
    num_wishes = 0 if user_id or strategy == "base" else dice.randint(1, 2)
    wishes = tuple((wish, dice.choice((0.5, 1.0))) for wish in dice.sample(WISHES, num_wishes))
    max_tokens = dice.randint(16, 64)
    return Ask(
        strategy=strategy,
        text=f"Tell me of the {dice.choice(PLACES)} in {dice.randint(2, 99)} words.",
        preferences=wishes,
        user_id=user_id,
        beta=dice.choice((0.5, 1.0, 1.5)),
        top_k=dice.randint(4, 12),
        temperature=dice.choice((0.0, 0.0, 0.9)),
        seed=dice.randrange(1 << 32),
        max_tokens=max_tokens,
        falls_back=dice.random() < 0.4,
        ends_turn=dice.random() < 0.3,
        cancel_after=dice.randrange(max_tokens) if dice.random() < 0.15 else None,
    )


def _fault(dice: random.Random, index: int) -> Fault:
    at = round(dice.uniform(0, 0.8), 3)
    (place,) = dice.choices(
        ("network", "process", "answers", "requests", "redis"), weights=(6, 5, 5, 1, 2)
    )
    lasts_s = dice.choice((0.1, 0.3, 1.0, 2.0))
    if place == "process":
        kind = dice.choice(PROCESS)
        return Fault(at, place, index, kind, lasts_s if kind == "stop" else 0.0)
    if place == "answers":
        kind = dice.choice(ANSWERS)
        times = 0 if kind == "delay" else dice.choice((1, 1, 3, 10))
        return Fault(at, place, index, kind, lasts_s, times, dice.choice(GARBLES))
    if place == "requests":
        return Fault(at, place, index, dice.choice(REQUESTS), times=dice.choice((1, 3)))
    kind = dice.choice((*NETWORK, *STORE, *STORE) if place == "redis" else NETWORK)
    return Fault(at, place, index, kind, 0.0 if kind == "cut" else lasts_s)
