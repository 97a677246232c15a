"""What the page offers to begin with: opposite wishes to slide between, and prompts.

The wishes are the levels of the client's presets, so that the page and `pad` speak of the same.
"""

from typing import Any

from pad_client.presets import Dimension, Presets

# The wishes of the two profiles before anybody has moved a slider, where the presets have them.
_FIRST = ("tone=friendly", "tone=formal")


def axes(presets: Presets) -> list[dict[str, Any]]:
    """Return the sliders, each between two opposite levels of a dimension.

    Levels go from one end to the other: the first is the opposite of the last, the second of the
    last but one, and one in the middle has none.
    """
    return [axis for dimension in presets.dimensions.values() for axis in _axes(dimension)]


def first_wishes(presets: Presets) -> list[str]:
    """Return the wish of each of the two profiles that the page begins with."""
    texts = [text for each in presets.dimensions.values() for text in each.levels.values()]
    known = [presets.preference(each).text for each in _FIRST if _has(presets, each)]
    return known if len(known) == len(_FIRST) else [texts[0], texts[-1]]


def _has(presets: Presets, choice: str) -> bool:
    name, _, level = choice.partition("=")
    return name in presets.dimensions and level in presets.dimensions[name].levels


def _axes(dimension: Dimension) -> list[dict[str, Any]]:
    levels = list(dimension.levels)
    half = len(levels) // 2
    pairs: list[tuple[str | None, str]] = list(zip(levels[:half], levels[::-1], strict=False))
    if len(levels) % 2:
        pairs.append((None, levels[half]))
    return [
        {
            # No name of a dimension has a full stop.
            "id": dimension.name if len(pairs) == 1 else ".".join([dimension.name, right]),
            "name": dimension.name,
            "about": dimension.about,
            "poles": [level and _pole(dimension, level) for level in (left, right)],
        }
        for left, right in pairs
    ]


def _pole(dimension: Dimension, level: str) -> dict[str, str]:
    return {"label": level, "wish": dimension.levels[level]}


PROMPTS: list[dict[str, Any]] = [
    {"label": label, "messages": [{"role": role, "content": text} for role, text in turns]}
    for label, turns in (
        ("Weather", [("user", "What is the weather like in Seattle today?")]),
        ("Hotel", [("user", "Can you find me a hotel in Paris?")]),
        (
            "Restaurant",
            [
                ("user", "I want to find a restaurant in San Jose."),
                ("assistant", "What kind of food do you like?"),
                ("user", "Italian, please."),
            ],
        ),
        ("Flight", [("user", "I need a flight to New York next Monday.")]),
        ("Goodbye", [("user", "Thanks a lot, that is all I need.")]),
    )
]
