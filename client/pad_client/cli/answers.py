"""How answers look on the screen: changed tokens marked, numbers in one line."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pad_client.cli.console import counted
from pad_client.types import Summary, Token

_CHANGED_STYLE = "bold green underline"


def has_styles(console: Console) -> bool:
    """Return whether a style is enough to tell a changed token."""
    return console.is_terminal and not console.no_color and console.color_system is not None


def marked_text(tokens: Iterable[Token], console: Console) -> Text:
    """Return an answer with the tokens the profile changed underlined, or within « and »."""
    text = Text()
    for is_changed, group in groupby(tokens, key=lambda token: token.changed):
        piece = "".join(token.text for token in group)
        if not text:
            piece = piece.lstrip()
        core = piece.strip()
        if not is_changed or not core:
            text.append(piece)
            continue
        before, after = piece.split(core, 1)
        text.append(before)
        if has_styles(console):
            text.append(core, style=_CHANGED_STYLE)
        else:
            text.append(f"«{core}»")
        text.append(after)
    return text


def legend(console: Console) -> str:
    """Return the sentence that explains the marks."""
    mark = "Underlined" if has_styles(console) else "«Marked»"
    return f"{mark}: tokens the base model alone would have chosen otherwise at that point."


def ms_per_token(summaries: Iterable[Summary]) -> float:
    """Return the mean time of a token over some answers; 0 if they have none."""
    counted = list(summaries)
    num_tokens = sum(each.num_tokens for each in counted)
    return 1000 * sum(each.timings.total_s for each in counted) / num_tokens if num_tokens else 0.0


def summary_line(summary: Summary) -> str:
    """Return how an answer came about in one line."""
    parts = [counted(summary.num_tokens, "token")]
    if summary.num_guided_tokens:
        parts += [
            f"{summary.num_guided_tokens} guided",
            f"{summary.num_changed_tokens} changed by the preferences",
            f"beta {summary.beta:g}",
        ]
    if summary.sample_rewards:
        rewards = summary.sample_rewards
        parts.append(f"best of {len(rewards)} by reward ({max(rewards):+.2f})")
    if summary.num_fallback_tokens:
        parts.append(f"{summary.num_fallback_tokens} UNGUIDED: no reward service answered")
    parts += [
        f"{ms_per_token([summary]):.1f} ms per token",
        f"ended by {summary.finish_reason or 'a reason this client does not know'}",
    ]
    return ", ".join(parts)


def print_candidates(console: Console, tokens: Sequence[Token]) -> None:
    """Print what each step chose from."""
    table = Table("step", "candidate", "", title="candidates", title_justify="left")
    # Reward and score took part in the choice of guided tokens alone.
    is_any_guided = any(token.guided for token in tokens)
    for heading in ("log p", "reward", "score") if is_any_guided else ("log p",):
        table.add_column(heading, justify="right")
    for token in tokens:
        for number, each in enumerate(token.candidates):
            table.add_row(
                str(token.index) if number == 0 else "",
                repr(each.text),
                _candidate_note(token, each.token_id),
                f"{each.logprob:.3f}",
                *([f"{each.reward:+.3f}", f"{each.score:.3f}"] if token.guided else []),
                end_section=number == len(token.candidates) - 1,
            )
    console.print(table)


def _candidate_note(token: Token, token_id: int) -> str:
    notes = []
    if token_id == token.token_id:
        notes.append("chosen")
    if token_id == token.base_token_id and token.changed:
        notes.append("base model's choice")
    return ", ".join(notes)
