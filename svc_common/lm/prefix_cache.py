"""Beginnings of prompts whose keys and values are kept, so that nobody runs them again.

Copying a token's keys and values costs half a percent of running it (3 us against 620 us for a
model of 30 M weights on one CPU core), so while there is room every prompt is kept. Afterwards
only what was asked for before may push others out: a prompt nobody repeats pushes out nothing.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence

from svc_common.lm.forgotten import Forgotten
from svc_common.lm.partitions import owner_of, partition_of
from svc_common.lm.prefix_tree import PrefixTree, TokenIds, num_bytes
from svc_common.lm.runner import SlotRunner
from svc_common.lm.slots import Row

BLOCK = 16  # tokens; what is shorter is run sooner than looked after
MAX_SEEN_BLOCKS = 1 << 16


class PrefixCache:
    """Fills rows of one runner; the least recently used goes first. For the model thread alone.

    Args:
        max_bytes: bound of all keys and values; 0 keeps none.
        hash_block: of (hash of all before, token ids). Should two blocks share a hash, one is kept
            too early: what is found is compared by its token ids.
        max_age_s: what is older is dropped by `drop_old`.
        clock: tells the time in seconds.
    """

    def __init__(
        self,
        max_bytes: int,
        hash_block: Callable[[Hashable], int] = hash,
        *,
        max_age_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_bytes = max_bytes
        self.max_age_s = max_age_s
        self._clock = clock
        self._forgotten = Forgotten(clock)
        self._hash_block = hash_block
        self._tree = PrefixTree()
        self._seen: OrderedDict[int, None] = OrderedDict()  # hashes of blocks, oldest first
        self._token_bytes = 0  # learned from the first row

    @property
    def num_tokens(self) -> int:
        return self._tree.num_tokens

    @property
    def num_bytes(self) -> int:
        return self._tree.num_bytes

    def count(self, group: int, token_ids: Sequence[int], owner: bytes = b"") -> int:
        """Return how many tokens are kept of the beginning of `token_ids`; they count as used."""
        root = (group, partition_of(owner))
        return sum(piece.length for piece in self._tree.find(root, tuple(token_ids)))

    def fill(
        self, runner: SlotRunner, row: Row, token_ids: Sequence[int], owner: bytes = b""
    ) -> int:
        """Write what is kept of the beginning of `token_ids` to an empty row; return how many.

        Found is what was kept for the same tenant as `owner`'s; see `partitions`.
        """
        assert row.length == 0, "row is not empty"
        root = (row.group, partition_of(owner))
        for piece in self._tree.find(root, tuple(token_ids)):
            runner.write(row, piece.contents, piece.length)
        return row.length

    def keep(
        self,
        runner: SlotRunner,
        row: Row,
        token_ids: Sequence[int],
        *,
        is_shared: bool = False,
        owner: bytes = b"",
    ) -> None:
        """Keep the beginning of a row that holds `token_ids`, if it is worth it.

        Args:
            runner: whose row it is.
            row: its first tokens are `token_ids`.
            token_ids: a prompt.
            is_shared: they are known to be asked for again: keep them all, whatever must go.
            owner: of whom `forget` may be told; nothing is kept for one who was just forgotten.
        """
        root = (row.group, partition_of(owner))
        if not self.max_bytes or owner in self._forgotten:
            return
        if not self._token_bytes:
            self._token_bytes = num_bytes(runner.read(row, 1))
        wanted = tuple(token_ids[: self.max_bytes // self._token_bytes])
        num_seen = len(wanted) if is_shared else self._note(root, wanted)
        num_known = self.count(row.group, wanted, owner)
        room = self.max_bytes - self.num_bytes
        if (len(wanted) - num_known) * self._token_bytes > room:
            wanted = wanted[:num_seen]
        if len(wanted) - num_known >= (1 if is_shared else BLOCK):
            contents = runner.read(row, len(wanted), start=num_known)
            self._tree.add(root, wanted, contents, self._clock())
        self._tree.claim(root, wanted, owner_of(owner))
        while self.num_bytes > self.max_bytes:
            self._tree.drop_oldest()

    def forget(self, owners: Iterable[bytes]) -> None:
        """Drop what was kept for these owners alone, and keep nothing for them for a while."""
        owners = list(owners)
        for owner in owners:
            self._tree.forget(owner)
        self._forgotten.add(owners)

    def drop_old(self) -> None:
        """Drop what is too old; a beginning goes when all that begin with it are."""
        self._tree.drop_made_before(self._clock() - self.max_age_s)
        self._forgotten.drop_old()

    def clear(self) -> None:
        """Drop everything."""
        self._tree.clear()

    def _note(self, root: Hashable, token_ids: TokenIds) -> int:
        """Remember the blocks of a prompt; return how long the beginning is that was seen before.

        A block's hash covers all tokens before it.
        """
        chained, num_seen = self._hash_block(root), 0
        for start in range(0, len(token_ids) - BLOCK + 1, BLOCK):
            chained = self._hash_block((chained, token_ids[start : start + BLOCK]))
            if chained in self._seen:
                num_seen = start + BLOCK
            self._seen[chained] = None
            self._seen.move_to_end(chained)
        while len(self._seen) > MAX_SEEN_BLOCKS:
            self._seen.popitem(last=False)
        return num_seen
