"""Reads the conversation of `pad generate`."""

import json
import sys
from pathlib import Path
from typing import Any

import typer

from pad_client.types import Message

_FORM = 'must hold a JSON list of {"role": ..., "content": ...}'


def build_messages(text: str | None, chat: Path | None) -> list[Message]:
    """Return the turns of the file and then the text as the user's next.

    Raises:
        typer.BadParameter: there is nothing to answer, or the file is not a conversation.
    """
    if text is None and chat is None:
        raise typer.BadParameter("give TEXT, or a conversation with --chat", param_hint="TEXT")
    messages = [] if chat is None else _read_chat(chat)
    if text is not None:
        messages.append(Message("user", text))
    return messages


def _read_chat(path: Path) -> list[Message]:
    try:
        content = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        turns: Any = json.loads(content)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--chat") from error
    except ValueError as error:
        raise typer.BadParameter(f"{path}: {_FORM}: {error}", param_hint="--chat") from error
    if not isinstance(turns, list) or not all(_is_turn(turn) for turn in turns):
        raise typer.BadParameter(f"{path}: {_FORM}", param_hint="--chat")
    return [Message(turn["role"], turn["content"]) for turn in turns]


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and all(
        isinstance(turn.get(key), str) for key in ("role", "content")
    )
