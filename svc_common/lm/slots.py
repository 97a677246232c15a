"""Which row of the KV cache belongs to which sequence; rows in use are always 0..n-1.

Rows have a group, and all rows of group 0 stand before all rows of group 1, so that a batch of
every live row is a plain slice of the cache, and a batch that runs two sets of weights splits in
two slices (see `paired`).
"""

from dataclasses import dataclass


class NoFreeSlotError(Exception):
    """All rows are in use."""


@dataclass(eq=False)
class Row:
    """A sequence's place in the cache: `index` changes when other rows leave, the object stays."""

    group: int
    index: int
    length: int = 0  # tokens whose keys and values are stored


Move = tuple[int, int]
"""(from row index, to row index): contents to copy, in order."""


class SlotTable:
    """Hands out rows 0..num_slots-1 and keeps the used ones dense and ordered by group."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._rows: list[Row] = []
        self._num_first = 0  # rows of group 0

    @property
    def num_free(self) -> int:
        return self.num_slots - len(self._rows)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows in use, by index."""
        return tuple(self._rows)

    def open(self, group: int) -> tuple[Row, list[Move]]:
        """Take a row of `group` (0 or 1) and say which contents must move for it first.

        Raises:
            NoFreeSlotError: all rows are in use.
        """
        if self.num_free == 0:
            raise NoFreeSlotError
        moves: list[Move] = []
        row = Row(group=group, index=len(self._rows))
        self._rows.append(row)
        if group == 0:
            if self._num_first < row.index:  # the first row of group 1 makes room
                moves.append(self._swap_into_hole(self._num_first, row.index))
            self._num_first += 1
        return row, moves

    def close(self, row: Row) -> list[Move]:
        """Give a row back and say which contents must move to keep the rows dense."""
        assert self._rows[row.index] is row, "row is not open"
        moves: list[Move] = []
        hole = row.index
        if row.group == 0:
            self._num_first -= 1
            if hole != self._num_first:
                moves.append(self._swap_into_hole(self._num_first, hole))
            hole = self._num_first
        if hole != len(self._rows) - 1:
            moves.append(self._swap_into_hole(len(self._rows) - 1, hole))
        self._rows.pop()
        return moves

    def _swap_into_hole(self, source: int, hole: int) -> Move:
        """Exchange two entries, of which only the one at `source` has contents worth keeping."""
        rows = self._rows
        rows[source], rows[hole] = rows[hole], rows[source]
        rows[source].index, rows[hole].index = source, hole
        return source, hole
