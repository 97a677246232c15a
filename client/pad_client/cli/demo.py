"""`pad demo`: the same questions, answered for different users, with the differences counted."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pad_client.cli.answers import legend, marked_text, ms_per_token
from pad_client.cli.attributes import Attributes, count_attributes
from pad_client.cli.console import new_console
from pad_client.cli.demo_script import DEMO_PROMPTS, DEMO_USERS, DemoPrompt
from pad_client.cli.up import (
    ModelsOption,
    ReplicasOption,
    StartTimeoutOption,
    print_services,
    started,
)
from pad_client.client import GeneratorClient
from pad_client.embedded import StackOptions, default_models_dir
from pad_client.types import Completion, Strategy

_BASE = "base"  # the row of the base model, beside the users'
_COUNTS = (
    ("words", "words"),
    ("exclamations", "!"),
    ("questions", "?"),
    ("formal", "formal"),
    ("casual", "casual"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one user, or the base model, answers to one prompt."""

    name: str
    completion: Completion


def demo(
    models: ModelsOption = None,
    beta: Annotated[float | None, typer.Option(help="Guidance strength, 0..10.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 60,
    reward_replicas: ReplicasOption = 1,
    start_timeout: StartTimeoutOption = 180.0,
) -> None:
    """Show, on this machine and the bundled models, what profiles do to answers."""
    options = StackOptions(
        models_dir=models or default_models_dir(),
        num_reward_replicas=reward_replicas,
        start_timeout_s=start_timeout,
    )
    console = new_console()
    try:
        with started(options) as stack:
            print_services(stack)
            with GeneratorClient(stack.address) as client:
                show_demo(client, console, beta=beta, max_tokens=max_tokens)
            used = [
                f"{name} ({stack.addresses[name]}, pid {pid})" for name, pid in stack.pids.items()
            ]
    except KeyboardInterrupt as interrupt:
        typer.echo("\nInterrupted; nothing is left running.")
        raise typer.Exit(130) from interrupt
    console.print(f"Stopped: {', '.join(used)}. Nothing is left running.", soft_wrap=True)


def show_demo(
    client: GeneratorClient, console: Console, *, beta: float | None, max_tokens: int
) -> None:
    """Put the profiles, print every answer, and then the counts."""
    notes = new_console(stderr=True)
    for user in DEMO_USERS:
        client.put_profile(user.user_id, user.preferences)
    _print_profiles(console)
    answers: list[Answer] = []
    for prompt in DEMO_PROMPTS:
        _print_prompt(console, prompt)
        with notes.status("The base model answers"):
            completion = client.complete(
                messages=prompt.messages, max_tokens=max_tokens, strategy=Strategy.BASE
            )
        answers.append(_print_answer(console, Answer(_BASE, completion)))
        for user in DEMO_USERS:
            with notes.status(f"Answering for {user.user_id}"):
                completion = client.complete(
                    messages=prompt.messages,
                    max_tokens=max_tokens,
                    user_id=user.user_id,
                    beta=beta,
                )
            answers.append(_print_answer(console, Answer(user.user_id, completion)))
    console.print()
    console.print(legend(console))
    console.print(
        "Names, prices and times are invented: the demo model is tiny and has no database.\n"
    )
    # Not as the table's title, which would wrap at the table's own width.
    console.print("Mean per answer and difference from the base model's; tokens changed of guided")
    console.print(_counts_table(answers))
    console.print("formal: words such as please, kindly, may I; casual: such as hey, okay, don't.")


def _print_profiles(console: Console) -> None:
    table = Table("user", "wishes")
    for user in DEMO_USERS:
        table.add_row(user.user_id, "\n".join(each.text for each in user.preferences))
    console.print(table)


def _print_prompt(console: Console, prompt: DemoPrompt) -> None:
    console.print()
    for message in prompt.messages:
        console.print(f"{message.role}: {message.content}", style="bold")


def _print_answer(console: Console, answer: Answer) -> Answer:
    summary = answer.completion.summary
    note = f"{summary.num_changed_tokens} of {summary.num_tokens} changed"
    row = Table.grid(padding=(0, 2), expand=True)
    row.add_column(width=max(len(user.user_id) for user in DEMO_USERS), justify="right")
    row.add_column(ratio=1)
    row.add_column(width=20, justify="right", style="dim")
    row.add_row(
        Text(answer.name, style="cyan"),
        marked_text(answer.completion.tokens, console),
        "" if answer.name == _BASE else note,
    )
    console.print(row)
    return answer


def _counts_table(answers: Sequence[Answer]) -> Table:
    """Return the mean counts of each user's answers, with the difference from the base's."""
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,  # so that it fits 80 columns
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", no_wrap=True)
    for heading in (*(heading for _, heading in _COUNTS), "changed", "ms/token"):
        table.add_column(heading, justify="right", no_wrap=True)
    base = _mean_counts(answers, _BASE)
    for name in (_BASE, *(user.user_id for user in DEMO_USERS)):
        counts = _mean_counts(answers, name)
        summaries = [each.completion.summary for each in answers if each.name == name]
        changed = sum(each.num_changed_tokens for each in summaries)
        guided = sum(each.num_guided_tokens for each in summaries)
        table.add_row(
            name,
            *(
                f"{counts[field]:.1f}"
                + ("" if name == _BASE else f" {counts[field] - base[field]:+.1f}")
                for field, _ in _COUNTS
            ),
            f"{changed}/{guided}",
            f"{ms_per_token(summaries):.1f}",
        )
    return table


def _mean_counts(answers: Sequence[Answer], name: str) -> dict[str, float]:
    counted = [count_attributes(each.completion.text) for each in answers if each.name == name]
    return {
        field.name: mean(getattr(each, field.name) for each in counted)
        for field in dataclasses.fields(Attributes)
    }
