"""How an explanation looks on the screen: what each preference did, and which tokens it changed."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from pad_client.cli.console import counted
from pad_client.types import Explanation, Summary, Token

LEGEND = (
    "push: how far, in nats, a preference moved the choice towards the token, away from the base"
    " model's. A token counts for the preference that pushed most."
)


def print_explanation(console: Console, tokens: Iterable[Token], summary: Summary) -> None:
    """Print what each preference did to an answer."""
    explanation = summary.explanation
    if explanation is None:  # a server of an older version
        console.print("The server does not explain its answers.")
        return
    console.print(_preferences(explanation, summary))
    changed = [token for token in tokens if token.changed and token.explanation is not None]
    if changed:
        console.print(_changes(changed, len(explanation.preferences), summary.beta))
        console.print(LEGEND, style="dim")
    if explanation.num_unexplained_tokens:
        unexplained = counted(explanation.num_unexplained_tokens, "guided token")
        console.print(
            f"Not explained: {unexplained}, chosen with a reward replica of an older version."
        )


def _preferences(explanation: Explanation, summary: Summary) -> Table:
    revision = f" (profile revision {summary.profile_revision})" if summary.profile_revision else ""
    table = Table(
        "", "preference", title=f"what each preference did{revision}", title_justify="left"
    )
    for heading in ("weight", "changed tokens", "push"):
        table.add_column(heading, justify="right")
    for number, each in enumerate(explanation.preferences, 1):
        table.add_row(
            str(number),
            each.text,
            f"{each.weight:g}",
            str(each.num_changed_tokens),
            f"{each.contribution:+.2f}",
        )
    return table


def _changes(changed: list[Token], num_preferences: int, beta: float) -> Table:
    """Return the changed tokens, each with how far every preference pushed it."""
    table = Table(
        "step", "token", "instead of", "by", title="tokens they changed", title_justify="left"
    )
    for number in range(1, num_preferences + 1):
        table.add_column(f"push of {number}", justify="right")
    for token in changed:
        its = token.explanation
        assert its is not None
        pushes = zip(its.rewards, its.base_rewards, strict=True)
        table.add_row(
            str(token.index),
            repr(token.text),
            repr(token.base_text),
            "" if its.changed_by is None else str(its.changed_by + 1),
            *(f"{beta * (reward - base):+.2f}" for reward, base in pushes),
        )
    return table
