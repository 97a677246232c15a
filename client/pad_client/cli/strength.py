"""Says when several wishes together guide more strongly than text can bear."""

import math
from collections.abc import Sequence

from pad_client.cli.console import new_console
from pad_client.presets import MAX_STRENGTH
from pad_client.types import Preference


def strength_note(preferences: Sequence[Preference], beta: float | None) -> str | None:
    """Return a warning if beta times the sum of weights is large, else None.

    Weights add up, as the reward of a token is the weighted sum over its preferences.

    Args:
        preferences: as they are sent.
        beta: None where the server's default counts, which is taken to be 1.
    """
    factor = 1.0 if beta is None else beta
    total = math.fsum(each.weight for each in preferences)
    if factor * total <= MAX_STRENGTH:
        return None
    weights = " + ".join(f"{each.weight:g}" for each in preferences)
    advice = f"lower beta, for example to {min(1.0, 1 / total):.2g}"
    if len(preferences) > 1:
        advice += f", or share weights out, for example {1 / len(preferences):.2g}*WISH each"
    return (
        f"strength {factor * total:.3g} = beta {factor:g} x weights {weights}: text may break above"
        f" about {MAX_STRENGTH:g}; {advice}"
    )


def print_strength_note(preferences: Sequence[Preference], beta: float | None) -> None:
    """Print that warning to stderr, if there is one."""
    if note := strength_note(preferences, beta):
        new_console(stderr=True).print(note, style="dim", soft_wrap=True, highlight=False)
