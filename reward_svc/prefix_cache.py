"""Keeps the keys and values of prompt prefixes, so that a known preference is not run again."""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence

from reward_svc.prompts import common_length
from svc_common.lm.cache import KeysValues

Key = tuple[int, ...]
"""Row group, then token ids: groups run different weights."""


class PrefixCache:
    """Least recently used prefixes go first; all kept ones together hold `max_tokens` at most.

    Only the tokens themselves are compared, so what is found is right whoever stored it.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._entries: OrderedDict[Key, list[KeysValues]] = OrderedDict()  # oldest use first
        self._sorted_keys: list[Key] = []
        self.num_tokens = 0

    def find(self, group: int, token_ids: Sequence[int]) -> tuple[list[KeysValues], int]:
        """Return stored contents and how many tokens of `token_ids`, from the first, they cover.

        The longest match is next to the place where the ids would stand among the sorted keys.
        """
        wanted = (group, *token_ids)
        place = bisect_left(self._sorted_keys, wanted)
        neighbours = self._sorted_keys[max(0, place - 1) : place + 1]
        matches = [(common_length(wanted, key) - 1, key) for key in neighbours]
        length, key = max(matches, default=(0, ()))
        if length <= 0:
            return [], 0
        self._entries.move_to_end(key)
        return self._entries[key], length

    def has(self, group: int, token_ids: Sequence[int]) -> bool:
        """Tell whether all `token_ids` are kept, as an entry or at the beginning of one."""
        return self.find(group, token_ids)[1] == len(token_ids)

    def put(self, group: int, token_ids: Sequence[int], contents: list[KeysValues]) -> None:
        """Keep what `SlotRunner.read` returned for these tokens."""
        key = (group, *token_ids)
        if key in self._entries or not token_ids:
            return
        self._entries[key] = contents
        insort(self._sorted_keys, key)
        self.num_tokens += len(token_ids)
        while self.num_tokens > self.max_tokens:
            oldest, _ = self._entries.popitem(last=False)
            del self._sorted_keys[bisect_left(self._sorted_keys, oldest)]
            self.num_tokens -= len(oldest) - 1
