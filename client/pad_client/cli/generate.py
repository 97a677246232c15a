"""`pad generate`: writes an answer to the screen as it comes."""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pad_client.cli.answers import legend, marked_text, print_candidates, summary_line
from pad_client.cli.chat import build_messages
from pad_client.cli.completion import complete_user
from pad_client.cli.connection import connect
from pad_client.cli.console import (
    DEFAULT_SERVER,
    PREFERENCE_FLAGS,
    PREFERENCE_HELP,
    PREFERENCE_METAVAR,
    JsonOption,
    ServerOption,
    TimeoutOption,
    new_console,
    parse_preferences,
)
from pad_client.cli.explanations import print_explanation
from pad_client.cli.strength import print_strength_note
from pad_client.client import GeneratorClient
from pad_client.errors import PadError
from pad_client.types import (
    Completion,
    Detail,
    FallbackPolicy,
    GenerateOptions,
    ReferenceMode,
    Strategy,
    Summary,
    Token,
)

PROFILE_TIMEOUT_S = 2.0  # for a note, once the answer is there


def generate(
    context: typer.Context,
    text: Annotated[str | None, typer.Argument(help="What the user says.")] = None,
    user: Annotated[
        str,
        typer.Option("--user", "-u", help="Whose profile guides.", autocompletion=complete_user),
    ] = "",
    preference: Annotated[
        list[str] | None,
        typer.Option(
            *PREFERENCE_FLAGS,
            metavar=PREFERENCE_METAVAR,
            help=f"{PREFERENCE_HELP} Those given here are used in place of the user's profile.",
        ),
    ] = None,
    chat: Annotated[
        Path | None,
        typer.Option(
            help='Earlier turns: a JSON list of {"role", "content"}; - for standard input.',
            allow_dash=True,
        ),
    ] = None,
    raw: Annotated[bool, typer.Option(help="Continue TEXT itself, not a conversation.")] = False,
    beta: Annotated[float | None, typer.Option(help="Guidance strength, 0..10.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Candidates in each step.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Share of probability sampled.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Repeats a sampled answer.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens written.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text.")] = None,
    strategy: Annotated[Strategy | None, typer.Option(help="How tokens are chosen.")] = None,
    reference: Annotated[
        ReferenceMode | None, typer.Option(help="What rewards are measured against.")
    ] = None,
    fallback: Annotated[
        FallbackPolicy | None, typer.Option(help="What to do without a reward service.")
    ] = None,
    preference_in_base_prompt: Annotated[
        bool,
        typer.Option(
            "--preference-in-base-prompt",
            help="State the preferences in the base model's prompt too, as the authors do.",
        ),
    ] = False,
    num_samples: Annotated[
        int | None, typer.Option(min=1, help="Answers to choose from (best-of-n).")
    ] = None,
    compare: Annotated[bool, typer.Option(help="Base and guided answer side by side.")] = False,
    candidates: Annotated[bool, typer.Option(help="Also list each step's candidates.")] = False,
    explain: Annotated[
        bool, typer.Option(help="Also say which preference changed which token.")
    ] = False,
    as_json: JsonOption = False,
    timeout: TimeoutOption = 60.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Write text for a user; without --user and --preference it is the base model's own."""
    wishes = parse_preferences(preference)
    options: GenerateOptions = {
        "user_id": user,
        "preferences": wishes,
        "beta": beta,
        "top_k": top_k,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "max_tokens": max_tokens,
        "stop": stop or (),
        "strategy": strategy,
        "reference": reference,
        "fallback": fallback,
        "detail": _detail(candidates=candidates, explain=explain),
        "num_samples": num_samples,
        "preference_in_base_prompt": preference_in_base_prompt,
    }
    print_strength_note(wishes, beta)  # before the answer; that of a profile is known after it
    if raw:
        if text is None or chat is not None:
            raise typer.BadParameter("takes TEXT and no --chat", param_hint="--raw")
        options["prompt"] = text
    else:
        options["messages"] = build_messages(text, chat)
    if compare and (strategy is Strategy.BASE or not (user or preference)):
        raise typer.BadParameter(
            "needs --user or --preference, and a strategy other than base", param_hint="--compare"
        )
    with connect(context, server, timeout) as client:
        if compare:
            summary = _compare(client, options, as_json=as_json)
        elif as_json:
            summary = _stream_json(client, options)
        else:
            summary = _stream_text(client, options)
        if user and not wishes and summary.num_guided_tokens:
            _print_profile_note(client, user, summary)


def _detail(*, candidates: bool, explain: bool) -> Detail | None:
    if candidates and explain:
        raise typer.BadParameter("goes without --candidates", param_hint="--explain")
    if explain:
        return Detail.EXPLANATION
    return Detail.CANDIDATES if candidates else None


def _print_profile_note(client: GeneratorClient, user: str, summary: Summary) -> None:
    """Print the note on strength for a stored profile, if the caller may read it.

    After the answer, which it must not delay; the summary has the beta that counted.
    """
    with contextlib.suppress(PadError):  # the answer is there: nothing failed
        profile = client.get_profile(user, timeout_s=PROFILE_TIMEOUT_S)
        print_strength_note(profile.preferences, summary.beta)


def _stream_text(client: GeneratorClient, options: GenerateOptions) -> Summary:
    console, notes = new_console(), new_console(stderr=True)
    tokens: list[Token] = []
    with client.generate(**options) as stream:
        with notes.status("Waiting for the first token"):
            first = next(stream, None)
        try:
            for token in chain([first] if first else [], stream):
                tokens.append(token)
                typer.echo(token.text, nl=False)  # flushes, so that each token is seen at once
        finally:
            typer.echo()
    _print_details(console, tokens, stream.summary, options)
    notes.print(summary_line(stream.summary), style="dim", soft_wrap=True)
    return stream.summary


def _stream_json(client: GeneratorClient, options: GenerateOptions) -> Summary:
    with client.generate(**options) as stream:
        for token in stream:
            typer.echo(_json_line("token", token))
    typer.echo(_json_line("summary", stream.summary))
    return stream.summary


def _compare(client: GeneratorClient, options: GenerateOptions, *, as_json: bool) -> Summary:
    notes = new_console(stderr=True)
    with notes.status("Writing the guided answer"):
        guided = client.complete(**options)
    base_options: GenerateOptions = {
        **options,
        "strategy": Strategy.BASE,
        # The seed of the first answer, so that sampling is not what makes the difference.
        "seed": guided.summary.seed,
    }
    for guidance in (
        "user_id",
        "preferences",
        "beta",
        "reference",
        "fallback",
        "num_samples",
        "preference_in_base_prompt",
    ):
        base_options.pop(guidance, None)  # type: ignore[misc]
    if options.get("detail") is Detail.EXPLANATION:  # there is nothing to explain
        base_options["detail"] = None
    with notes.status("Writing the base model's answer"):
        base = client.complete(**base_options)
    if as_json:
        typer.echo(_json_line("base", base))
        typer.echo(_json_line("guided", guided))
        return guided.summary
    _print_comparison(new_console(), base, guided)
    _print_details(new_console(), guided.tokens, guided.summary, options)
    return guided.summary


def _print_comparison(console: Console, base: Completion, guided: Completion) -> None:
    table = Table(expand=True)
    table.add_column("base model", ratio=1)
    table.add_column("with preferences", ratio=1)
    table.add_row(base.text.strip(), marked_text(guided.tokens, console), end_section=True)
    table.add_row(summary_line(base.summary), summary_line(guided.summary), style="dim")
    console.print(table)
    if guided.summary.num_changed_tokens:
        console.print(legend(console))


def _print_details(
    console: Console, tokens: Sequence[Token], summary: Summary, options: GenerateOptions
) -> None:
    detail = options.get("detail")
    if detail is Detail.CANDIDATES:
        print_candidates(console, tokens)
    elif detail is Detail.EXPLANATION:
        print_explanation(console, tokens, summary)


def _json_line(kind: str, value: Any) -> str:
    return json.dumps({"type": kind, **dataclasses.asdict(value)}, ensure_ascii=False)
