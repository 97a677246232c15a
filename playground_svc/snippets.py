"""The request on the screen as a program, a command, or a message another tool can send.

All three ask for the same tokens. What tells more and changes none (candidates) is left out.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from pad_client import GenerateOptions, Preference

_METHOD = "pad.v1.GeneratorService/Generate"
_NUMBERS = ("beta", "top_k", "temperature", "seed", "max_tokens")
# What the command line reads as a weight and a wish.
_LOOKS_WEIGHTED = re.compile(r"\s*\d+(?:\.\d+)?\s*\*")


def snippets(options: GenerateOptions, server: str, *, is_secured: bool) -> dict[str, str]:
    """Return the request in each form, by the form's name.

    Args:
        options: The request.
        server: Where the reader of the page reaches the generator.
        is_secured: Whether the generator asks for keys or a token; whose they are is not told.
    """
    forms = {
        "python": _python(options, server, is_secured=is_secured),
        "cli": _cli(options, server, is_secured=is_secured),
        "grpcurl": _grpcurl(options, server, is_secured=is_secured),
    }
    return {name: text + "\n" for name, text in forms.items()}


def _python(options: GenerateOptions, server: str, *, is_secured: bool) -> str:
    names = ["GeneratorClient", "Message"]
    turns = [
        f"Message({_text(turn['role'])}, {_text(turn['content'])})" for turn in _turns(options)
    ]
    lines = _call("messages", turns)
    if options.get("user_id"):
        lines.append(f"user_id={_text(options['user_id'])},")
    if options.get("preferences"):
        names.append("Preference")
        wishes = [_python_wish(each) for each in _wishes(options)]
        lines += _call("preferences", wishes)
    if options.get("strategy"):
        lines.append(f"strategy={_text(str(options['strategy']))},")
    lines += [f"{name}={value!r}," for name, value in _numbers(options)]
    access = ', ca_file="ca.pem", token_file="token"' if is_secured else ""
    body = "\n".join(f"        {line}" for line in lines)
    return f"""from pad_client import {", ".join(names)}

with GeneratorClient({_text(server)}{access}) as client:
    stream = client.generate(
{body}
    )
    with stream:
        for token in stream:
            print(token.text, end="", flush=True)
print()"""


def _call(name: str, items: Sequence[str]) -> list[str]:
    if len(items) == 1:
        return [f"{name}=[{items[0]}],"]
    return [f"{name}=[", *(f"    {item}," for item in items), "],"]


def _python_wish(wish: Preference) -> str:
    weight = "" if wish.weight == 1 else f", {wish.weight!r}"
    return f"Preference({_text(wish.text)}{weight})"


def _text(value: str) -> str:
    """Return a Python literal in double quotes, where none of the text needs others."""
    literal = repr(value)
    return literal if '"' in value or literal[0] == '"' else f'"{literal[1:-1]}"'


def _cli(options: GenerateOptions, server: str, *, is_secured: bool) -> str:
    *earlier, last = _turns(options)
    access = ["--ca-file", "ca.pem", "--token-file", "token"] if is_secured else []
    lines = [shlex.join(["pad", *access, "generate", "--server", server])]
    if last["role"] != "user":  # the command's own text is always the user's
        earlier, last = [*earlier, last], {}
    start = ""
    if earlier:
        start = f"printf %s {shlex.quote(json.dumps(earlier, ensure_ascii=False))} | "
        lines.append("--chat -")
    if options.get("user_id"):
        lines.append(shlex.join(["--user", options["user_id"]]))
    lines += [shlex.join(["--preference", _cli_wish(each)]) for each in _wishes(options)]
    if options.get("strategy"):
        lines.append(shlex.join(["--strategy", str(options["strategy"])]))
    lines += [
        shlex.join([f"--{name.replace('_', '-')}", _plain(value)])
        for name, value in _numbers(options)
    ]
    if last:
        lines.append(f"-- {shlex.quote(last['content'])}")
    return start + " \\\n  ".join(lines)


def _cli_wish(wish: Preference) -> str:
    if wish.weight == 1 and not _LOOKS_WEIGHTED.match(wish.text):
        return wish.text
    return f"{_plain(wish.weight)}*{wish.text}"


def _grpcurl(options: GenerateOptions, server: str, *, is_secured: bool) -> str:
    request: dict[str, Any] = {"chat": {"messages": _turns(options)}}
    if options.get("user_id"):
        request["user_id"] = options["user_id"]
    if options.get("preferences"):
        request["preferences"] = [
            {"text": each.text, "weight": each.weight} for each in _wishes(options)
        ]
    if options.get("strategy"):
        name = str(options["strategy"]).upper().replace("-", "_")
        request["strategy"] = f"STRATEGY_{name}"
    request |= dict(_numbers(options))
    data = shlex.quote(json.dumps(request, ensure_ascii=False, indent=2))
    token = '"authorization: Bearer $(cat token)"'
    access = f"-cacert ca.pem -H {token}" if is_secured else "-plaintext"
    return f"grpcurl {access} -d {data} \\\n  {shlex.quote(server)} {_METHOD}"


def _turns(options: GenerateOptions) -> list[dict[str, str]]:
    turns = options.get("messages") or ()
    return [dict(turn) for turn in turns if isinstance(turn, Mapping)]


def _wishes(options: GenerateOptions) -> list[Preference]:
    return [each for each in options.get("preferences", ()) if isinstance(each, Preference)]


def _numbers(options: GenerateOptions) -> list[tuple[str, float]]:
    values: Mapping[str, Any] = options
    return [(name, values[name]) for name in _NUMBERS if values.get(name) is not None]


def _plain(value: float) -> str:
    """Return a number without an exponent, as the command line reads weights."""
    return f"{Decimal(repr(value)):f}"
