"""Keys and values of token sequences, common beginnings kept once: a radix tree of token ids."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from svc_common.lm.forward import Contents
from svc_common.lm.ownership import Ownership

TokenIds = tuple[int, ...]
_STRIDE = 64  # tokens compared at once


@dataclass(eq=False)
class _Node:
    """Tokens that follow those of `parent`, and their keys and values; children by first token."""

    token_ids: TokenIds
    contents: Contents
    parent: "_Node | None" = None
    made_at: float = 0.0
    children: dict[int, "_Node"] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """The first `length` positions of `contents`."""

    contents: Contents
    length: int


class PrefixTree:
    """Finds by the token ids themselves, so that what is found is right whoever added it."""

    def __init__(self) -> None:
        self._roots: dict[Hashable, _Node] = {}
        # Oldest use first, and children always before their parents: the first is a leaf.
        self._nodes: OrderedDict[_Node, None] = OrderedDict()
        self._ownership: Ownership[_Node] = Ownership()
        self.num_tokens = 0
        self.num_bytes = 0

    def find(self, group: Hashable, token_ids: TokenIds) -> list[Piece]:
        """Return what is kept of the beginning of `token_ids`, in order; it counts as used now.

        Args:
            group: what must be equal beside the tokens: the weights that ran them, the tenant.
        """
        path = self._walk(group, token_ids)
        self._touch([node for node, _ in path])
        return [Piece(node.contents, length) for node, length in path]

    def add(
        self, group: Hashable, token_ids: TokenIds, contents: Contents, made_at: float = 0.0
    ) -> None:
        """Add tokens of which only a beginning is kept.

        Args:
            group: as for `find`.
            token_ids: all of them.
            contents: of those behind what `find` covers.
            made_at: when that was, for `drop_made_before`.
        """
        path = self._walk(group, token_ids)
        above = [node for node, _ in path]
        num_known = sum(length for _, length in path)
        assert num_known < len(token_ids), "is kept already"
        if path and path[-1][1] < len(path[-1][0].token_ids):
            above[-1] = self._split(*path[-1])
        parent = above[-1] if above else self._root(group)
        node = _Node(token_ids[num_known:], contents, parent, made_at)
        parent.children[node.token_ids[0]] = node
        self._nodes[node] = None
        self.num_tokens += len(node.token_ids)
        self.num_bytes += num_bytes(contents)
        self._touch([*above, node])

    def claim(self, group: Hashable, token_ids: TokenIds, owner: bytes) -> None:
        """Note who uses the beginning of `token_ids`; see `Ownership`."""
        path = self._walk(group, token_ids)
        nodes = [node for node, _ in path]
        if path and path[-1][1] < len(path[-1][0].token_ids):
            nodes[-1] = self._split(*path[-1])
        for node in nodes:
            self._ownership.claim(node, owner)
        self._touch(nodes)

    def forget(self, owner: bytes) -> None:
        """Drop what only `owner` uses."""
        for node in self._ownership.forget(owner):
            if node in self._nodes:  # else it went with another one
                self._drop_branch(node)

    def drop_made_before(self, time: float) -> None:
        """Drop what was made earlier, unless something later begins with it."""
        for node in list(self._nodes):  # children before their parents
            if node.made_at < time and not node.children:
                self._drop(node)

    def drop_oldest(self) -> None:
        """Forget the leaf whose last use is longest ago."""
        self._drop(next(iter(self._nodes)))

    def clear(self) -> None:
        """Drop everything."""
        while self._nodes:
            self.drop_oldest()

    def _drop_branch(self, node: _Node) -> None:
        for child in list(node.children.values()):
            self._drop_branch(child)
        self._drop(node)

    def _drop(self, node: _Node) -> None:
        assert not node.children, "parents are used whenever a child is"
        assert node.parent is not None
        del self._nodes[node]
        del node.parent.children[node.token_ids[0]]
        self._ownership.discard(node)
        self.num_tokens -= len(node.token_ids)
        self.num_bytes -= num_bytes(node.contents)

    def _root(self, group: Hashable) -> _Node:
        return self._roots.setdefault(group, _Node((), ()))

    def _walk(self, group: Hashable, token_ids: TokenIds) -> list[tuple[_Node, int]]:
        """Return the nodes that hold a beginning of `token_ids`, and how many tokens of each."""
        path: list[tuple[_Node, int]] = []
        node, start = self._root(group), 0
        while start < len(token_ids):
            child = node.children.get(token_ids[start])
            if child is None:
                break
            length = common_length(child.token_ids, token_ids[start : start + len(child.token_ids)])
            path.append((child, length))
            if length < len(child.token_ids):
                break
            node, start = child, start + length
        return path

    def _touch(self, path: Sequence[_Node]) -> None:
        for node in reversed(path):  # parents last
            self._nodes.move_to_end(node)

    def _split(self, node: _Node, length: int) -> _Node:
        """Put a node of its own before all but the first `length` tokens of `node`; return it."""
        parent = node.parent
        assert parent is not None
        # Copies, as views would keep the whole alive when one of the two is dropped.
        front = tuple(part[..., :length, :].clone() for part in node.contents)
        below = {node.token_ids[length]: node}
        upper = _Node(node.token_ids[:length], front, parent, node.made_at, below)
        parent.children[upper.token_ids[0]] = upper
        node.contents = tuple(part[..., length:, :].clone() for part in node.contents)
        node.token_ids = node.token_ids[length:]
        node.parent = upper
        self._nodes[upper] = None
        self._ownership.copy(node, upper)
        return upper


def num_bytes(contents: Contents) -> int:
    """Return how many bytes keys and values take."""
    return sum(part.numel() * part.element_size() for part in contents)


def common_length(one: Sequence[int], two: Sequence[int]) -> int:
    """Return how many items two sequences share from their beginning; quick if both are lists."""
    shorter = min(len(one), len(two))
    start = 0
    while start < shorter and one[start : start + _STRIDE] == two[start : start + _STRIDE]:
        start += _STRIDE
    while start < shorter and one[start] == two[start]:
        start += 1
    return min(start, shorter)
