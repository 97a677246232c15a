"""Keys and values of token sequences, common beginnings kept once: a radix tree of token ids."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from svc_common.lm.forward import Contents

TokenIds = tuple[int, ...]
_STRIDE = 64  # tokens compared at once


@dataclass(eq=False)
class _Node:
    """Tokens that follow those of `parent`, and their keys and values; children by first token."""

    token_ids: TokenIds
    contents: Contents
    parent: "_Node | None" = None
    children: dict[int, "_Node"] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """The first `length` positions of `contents`."""

    contents: Contents
    length: int


class PrefixTree:
    """Finds by the token ids themselves, so that what is found is right whoever added it."""

    def __init__(self) -> None:
        self._roots: dict[int, _Node] = {}
        # Oldest use first, and children always before their parents: the first is a leaf.
        self._nodes: OrderedDict[_Node, None] = OrderedDict()
        self.num_tokens = 0
        self.num_bytes = 0

    def find(self, group: int, token_ids: TokenIds) -> list[Piece]:
        """Return what is kept of the beginning of `token_ids`, in order; it counts as used now.

        Args:
            group: rows of different groups run different weights.
        """
        path = self._walk(group, token_ids)
        self._touch([node for node, _ in path])
        return [Piece(node.contents, length) for node, length in path]

    def add(self, group: int, token_ids: TokenIds, contents: Contents) -> None:
        """Add tokens of which only a beginning is kept.

        Args:
            group: as for `find`.
            token_ids: all of them.
            contents: of those behind what `find` covers.
        """
        path = self._walk(group, token_ids)
        above = [node for node, _ in path]
        num_known = sum(length for _, length in path)
        assert num_known < len(token_ids), "is kept already"
        if path and path[-1][1] < len(path[-1][0].token_ids):
            above[-1] = self._split(*path[-1])
        parent = above[-1] if above else self._root(group)
        node = _Node(token_ids[num_known:], contents, parent)
        parent.children[node.token_ids[0]] = node
        self._nodes[node] = None
        self.num_tokens += len(node.token_ids)
        self.num_bytes += num_bytes(contents)
        self._touch([*above, node])

    def drop_oldest(self) -> None:
        """Forget the leaf whose last use is longest ago."""
        node, _ = self._nodes.popitem(last=False)
        assert not node.children, "parents are used whenever a child is"
        assert node.parent is not None
        del node.parent.children[node.token_ids[0]]
        self.num_tokens -= len(node.token_ids)
        self.num_bytes -= num_bytes(node.contents)

    def _root(self, group: int) -> _Node:
        return self._roots.setdefault(group, _Node((), ()))

    def _walk(self, group: int, token_ids: TokenIds) -> list[tuple[_Node, int]]:
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
        upper = _Node(node.token_ids[:length], front, parent, {node.token_ids[length]: node})
        parent.children[upper.token_ids[0]] = upper
        node.contents = tuple(part[..., length:, :].clone() for part in node.contents)
        node.token_ids = node.token_ids[length:]
        node.parent = upper
        self._nodes[upper] = None
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
