"""Puts together what bash takes apart: to its completion `length=brief` is three words."""

import re
from collections.abc import MutableMapping

# What stands before the word that is completed, and belongs to it: bash keeps that, and is to be
# given what replaces the rest.
HEAD = "_PAD_COMPLETE_HEAD"
_BREAK = re.compile("[=:]+")  # of what bash breaks words at, what our words have
# Up to a line break that is in no quotes; those of the last word may be open.
_WORD = re.compile(r"""(?:[^\n"'\\]|\\(?:.|$)|"(?:[^"\\]|\\.)*(?:"|\\?$)|'[^']*(?:'|$))*""", re.S)


def join_words(environment: MutableMapping[str, str]) -> None:
    """Join the words of a bash command line, up to the one that is completed."""
    if environment.get("_PAD_COMPLETE") != "complete_bash":
        return
    # The script for bash has the words with line breaks between them, and counts from 0.
    words = _split(environment["COMP_WORDS"])[: int(environment["COMP_CWORD"]) + 1]
    joined: list[str] = []
    is_break = False
    for word in words:
        was_break, is_break = is_break, bool(_BREAK.fullmatch(word))
        if joined and (was_break or is_break):
            joined[-1] += word
        else:
            joined.append(word)
    *before, last = joined
    option, equals, value = last.partition("=")
    if option.startswith("--") and equals:
        before, last = [*before, option], value
    if words[-1] != last:
        tail = "" if is_break else words[-1]
        environment[HEAD] = last.removesuffix(tail)
        last = tail
    environment["COMP_WORDS"] = "\n".join([*before, last])
    environment["COMP_CWORD"] = str(len(before))


def _split(text: str) -> list[str]:
    """Return the words of a command line; a prompt in quotes may have lines of its own."""
    words, position = [], 0
    while position <= len(text):
        match = _WORD.match(text, position)
        assert match is not None, "it matches nothing too"
        words.append(match[0])
        position = match.end() + 1
    return words
