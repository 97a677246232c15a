"""Reading the demo data: dialogues, candidate replies, wordings of preferences."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svc_common.preference_prompt import ChatMessage

NEEDED_FILES = (
    "lm/dialogues_train.jsonl.gz",
    "lm/dialogues_dev.jsonl.gz",
    "preferences/candidates_train.jsonl.gz",
    "preferences/pairs_train.jsonl.gz",
    "preferences/pairs_dev.jsonl.gz",
    "preferences/preferences.json",
    "eval/prompts_dev.jsonl",
)


class MissingDataError(Exception):
    """The data folder lacks files that training reads."""


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue with the friendly sentences that fit before and after it."""

    message: ChatMessage
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class CandidatePrompt:
    """A context that ends with a user turn, and real replies to it."""

    context: tuple[ChatMessage, ...]
    replies: tuple[str, ...]


def require_data(data: Path) -> None:
    """Check that every file training reads is there.

    Raises:
        MissingDataError: with a message that names the folder and the missing files.
    """
    missing = [name for name in NEEDED_FILES if not (data / name).is_file()]
    if missing:
        raise MissingDataError(
            f"data folder {data}: missing {', '.join(missing)}. Put the demo data there (folders"
            " lm/, preferences/ and eval/, made from Schema-Guided Dialogue and ACCENTOR-SGD),"
            " or name another folder with --data."
        )


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file, gzip-compressed or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def to_messages(turns: list[dict[str, Any]]) -> tuple[ChatMessage, ...]:
    """Return data turns (`speaker`, `text`) as chat messages."""
    return tuple(ChatMessage(turn["speaker"], turn["text"]) for turn in turns)


def read_dialogues(path: Path) -> list[list[Turn]]:
    """Return each dialogue of `path` as its turns."""
    return [
        [
            Turn(
                ChatMessage(turn["speaker"], turn["text"]),
                tuple(turn.get("before", ())),
                tuple(turn.get("after", ())),
            )
            for turn in row["turns"]
        ]
        for row in read_rows(path)
    ]


def read_candidates(path: Path) -> list[CandidatePrompt]:
    """Return the prompts of a candidates file with their replies."""
    return [
        CandidatePrompt(
            to_messages(row["context"]), tuple(reply["text"] for reply in row["candidates"])
        )
        for row in read_rows(path)
    ]


def read_phrases(path: Path) -> list[str]:
    """Return every training phrase of every direction in preferences.json."""
    dimensions = json.loads(path.read_text(encoding="utf-8"))["dimensions"]
    return [
        phrase
        for directions in dimensions.values()
        for direction in directions.values()
        for phrase in direction["phrases_train"]
    ]
