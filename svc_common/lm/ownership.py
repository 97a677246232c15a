"""Who uses what is kept, so that what nobody else uses can go with a user who is erased."""

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

MAX_OWNERS = 16  # what more users share says nothing about one of them


class Ownership(Generic[T]):
    """Owners of items; an owner is an opaque name, an empty one is nobody in particular.

    What nobody in particular used, or more than `max_owners`, is everybody's.
    """

    def __init__(self, max_owners: int = MAX_OWNERS) -> None:
        self._max_owners = max_owners
        self._owners: dict[T, set[bytes]] = {}  # empty: everybody's
        self._items: dict[bytes, set[T]] = {}

    def claim(self, item: T, owner: bytes) -> None:
        """Note that `owner` uses an item."""
        owners = self._owners.get(item)
        if owners is None:
            owners = self._owners[item] = {owner}
            self._items.setdefault(owner, set()).add(item)
        elif owners and owner not in owners:
            owners.add(owner)
            self._items.setdefault(owner, set()).add(item)
        if owners and (not owner or len(owners) > self._max_owners):
            self.discard(item)
            self._owners[item] = set()

    def copy(self, item: T, to: T) -> None:
        """Give an item that has none the owners of another."""
        owners = self._owners.get(item)
        if owners is None:
            return
        self._owners[to] = set(owners)
        for owner in owners:
            self._items[owner].add(to)

    def discard(self, item: T) -> None:
        """Hear that an item is not kept any more."""
        for owner in self._owners.pop(item, ()):
            items = self._items[owner]
            items.discard(item)
            if not items:
                del self._items[owner]

    def forget(self, owner: bytes) -> list[T]:
        """Take an owner from all items; return those that are nobody's now."""
        orphans = []
        for item in self._items.pop(owner, ()):
            owners = self._owners[item]
            owners.discard(owner)
            if not owners:
                del self._owners[item]
                orphans.append(item)
        return orphans
