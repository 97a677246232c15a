"""What a rendered prompt is made of, read from its tokens alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from svc_common.lm.tokenizer import Tokenizer
from tests.tiny_model import CONTROL_TOKENS

MARKS = ("[Guidelines]", "[Principles]", "[Instruction]")
CONTROL_IDS = frozenset(range(len(CONTROL_TOKENS)))


@dataclass(frozen=True)
class Structure:
    """Control ids in their order, marks in theirs, and where these stand.

    `before` are the places, from the start, of what stands before the preference; `behind` those,
    from the end, of what stands behind it.
    """

    controls: tuple[int, ...]
    marks: tuple[str, ...]
    before: tuple[int, ...]
    behind: tuple[int, ...]


def structure(ids: Sequence[int], tokenizer: Tokenizer) -> Structure:
    """Return the structure of a prompt with one preference."""
    found = sorted(
        (place, mark) for mark in MARKS for place in _places(ids, tokenizer.encode_prompt(mark))
    )
    controls = [(place, i) for place, i in enumerate(ids) if i in CONTROL_IDS]
    start = found[1][0]  # [Principles]
    return Structure(
        controls=tuple(i for _, i in controls),
        marks=tuple(mark for _, mark in found),
        before=tuple(p for p, _ in [*controls, *found] if p <= start),
        behind=tuple(len(ids) - p for p, _ in [*controls, *found] if p > start),
    )


def _places(ids: Sequence[int], mark: Sequence[int]) -> list[int]:
    return [i for i in range(len(ids)) if list(ids[i : i + len(mark)]) == list(mark)]
