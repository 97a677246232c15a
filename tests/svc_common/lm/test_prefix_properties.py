"""The prefix cache against a naive set of what it was given: right, bounded, losing no more."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from svc_common.lm.prefix_cache import BLOCK, PrefixCache
from svc_common.lm.runner import SlotRunner
from tests.svc_common.lm.token_forward import TokenForward, tokens_of

TOKEN_BYTES = 8  # a key and a value of one float32 each
CONTEXT = 96
# Few and long, so that beginnings are shared and blocks are full.
PROMPT = st.lists(
    st.sampled_from([(0,) * BLOCK, (1,) * BLOCK, (0,), (1, 2, 3)]), min_size=1, max_size=6
)


class PrefixMachine(RuleBasedStateMachine):
    """`kept` holds what the cache was asked to keep, by group."""

    @initialize(max_tokens=st.sampled_from([0, 5, 40, 100, 10_000]), collides=st.booleans())
    def start(self, max_tokens: int, collides: bool) -> None:
        self.max_tokens = max_tokens
        hash_block = (lambda _: 0) if collides else hash
        self.cache = PrefixCache(max_tokens * TOKEN_BYTES + 3, hash_block)
        self.runner = SlotRunner(TokenForward(), num_slots=2, context_length=CONTEXT)
        self.kept: dict[int, set[tuple[int, ...]]] = {0: set(), 1: set()}

    @rule(blocks=PROMPT, group=st.integers(0, 1), is_shared=st.booleans())
    def read_a_prompt(self, blocks: list[tuple[int, ...]], group: int, is_shared: bool) -> None:
        prompt = [token for block in blocks for token in block]
        row = self.runner.open(group)
        length = self.cache.fill(self.runner, row, prompt[:-1])
        assert length == row.length < len(prompt)
        self.check(group, prompt[:-1], length)
        if length:
            assert tokens_of(self.runner.read(row)) == prompt[:length]
        self.runner.append(row, prompt[length:])
        had_room = self.cache.num_bytes + len(prompt) * TOKEN_BYTES <= self.cache.max_bytes
        known = self.cache.count(group, prompt)
        self.cache.keep(self.runner, row, prompt, is_shared=is_shared)
        self.kept[group].add(tuple(prompt))
        after = self.cache.count(group, prompt)
        assert after >= known, "keeping a prompt forgot a part of it"
        if self.max_tokens and (is_shared or (had_room and len(prompt) - known >= BLOCK)):
            assert after == min(len(prompt), self.cache.max_bytes // TOKEN_BYTES)
        self.runner.close(row)

    @rule(blocks=PROMPT, group=st.integers(0, 1))
    def look_up(self, blocks: list[tuple[int, ...]], group: int) -> None:
        prompt = [token for block in blocks for token in block]
        self.check(group, prompt, self.cache.count(group, prompt))

    def check(self, group: int, prompt: list[int], length: int) -> None:
        """What is found was given, in this group, and nothing longer can have been."""
        beginnings = [common(prompt, kept) for kept in self.kept[group]]
        assert length <= max(beginnings, default=0)
        if self.max_tokens == 10_000:  # nothing was pushed out: only short ends may be missing
            assert length > max(beginnings, default=0) - BLOCK

    @invariant()
    def bytes_are_bounded_and_counted(self) -> None:
        assert self.cache.num_bytes <= self.cache.max_bytes
        assert self.cache.num_bytes == self.cache.num_tokens * TOKEN_BYTES


def common(one: list[int], two: tuple[int, ...]) -> int:
    pairs = zip(one, two, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))


TestPrefixCache = PrefixMachine.TestCase
TestPrefixCache.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
