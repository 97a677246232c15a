"""The request on the screen, copied: run as it stands it gets the same answer."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from pad.v1 import generator_pb2
from pad_client import GenerateOptions, GeneratorClient, Preference
from pad_client.cli.console import parse_preferences
from pad_client.embedded import EmbeddedStack
from pad_client.requests import build_request
from playground_svc.schema import GenerationBody
from playground_svc.snippets import snippets
from tests.playground_svc.playgrounds import ASK, ROOT, ask

TURNS = [
    {"role": "user", "content": "I want to find a restaurant in San Jose."},
    {"role": "assistant", "content": 'What\'s your "budget"? $5 or `more`?'},
    {"role": "user", "content": "-1 star, it's cheap\nand $HOME"},
]
REQUESTS: dict[str, dict[str, Any]] = {
    "base": {"messages": TURNS[:2], "max_tokens": 8, "strategy": "base"},
    "wishes": {
        **ASK,
        "preferences": [{"text": "Be brief.", "weight": 1}, {"text": "2*I'm", "weight": 0.3}],
        "beta": 2.0,
        "top_k": 5,
    },
    "turns": {"messages": TURNS, "max_tokens": 20, "preferences": [{"text": "Be brief."}]},
    "sampled": {**ASK, "user_id": "copied", "temperature": 0.7, "seed": 7, "top_k": 4},
}


@pytest.fixture(scope="module", autouse=True)
def copied(pad: GeneratorClient) -> None:
    pad.put_profile("copied", ["I love exclamation marks!"], beta=0.8)


@pytest.fixture(params=REQUESTS)
def request_body(request: pytest.FixtureRequest) -> dict[str, Any]:
    return REQUESTS[request.param]


def options_of(body: dict[str, Any]) -> GenerateOptions:
    return GenerationBody.model_validate(body).options()


def run(command: list[str], **more: Any) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, **more
    ).stdout


def run_in_shell(script: str, folder: Path) -> str:
    """Run a copied command; `grpcurl`, which is not installed, tells what it was called with."""
    programs = {
        "pad": "from pad_client.cli import main; main()",
        "grpcurl": "import json, sys; print(json.dumps(sys.argv[1:]))",
    }
    for name, program in programs.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c '{program}' \"$@\"\n")
        path.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return run(["/bin/sh", "-c", script], env={**os.environ, "PATH": path})


def test_all_forms_get_the_answer_on_the_screen(
    stack: EmbeddedStack, address: str, request_body: dict[str, Any], tmp_path: Path
) -> None:
    answered = ask(address, "/api/generate", request_body)
    text = "".join(value["text"] for kind, value in answered.events if kind == "token")
    forms = ask(address, "/api/snippets", request_body).json
    assert set(forms) == {"python", "cli", "grpcurl"}

    assert run([sys.executable, "-c", forms["python"]]) == f"{text}\n"

    # The commands as they stand, in a shell; `pad` is the one of this interpreter.
    assert run_in_shell(forms["cli"], tmp_path) == f"{text}\n"
    words = json.loads(run_in_shell(forms["grpcurl"], tmp_path))
    assert words[:2] == ["-plaintext", "-d"]
    assert words[3:] == [stack.address, "pad.v1.GeneratorService/Generate"]
    sent = json_format.Parse(words[2], generator_pb2.GenerateRequest())
    expected = build_request(**options_of(request_body))
    # A weight that is 1 may be there or not.
    for each in (*sent.preferences, *expected.preferences):
        each.weight = each.weight if each.HasField("weight") else 1
    assert sent == expected


def test_a_secured_generator_is_called_with_keys_of_the_readers_own() -> None:
    forms = snippets(options_of(ASK), "pad.example:443", is_secured=True)
    assert 'ca_file="ca.pem", token_file="token"' in forms["python"]
    assert "pad --ca-file ca.pem --token-file token generate" in forms["cli"]
    assert "-cacert ca.pem -H " in forms["grpcurl"]
    assert "-plaintext" not in forms["grpcurl"]


@settings(max_examples=40, deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map(str.strip),
    weight=st.floats(0.001, 10),
)
def test_any_wish_survives_the_command_line(text: str, weight: float) -> None:
    if not text:
        return
    body = {**ASK, "preferences": [{"text": text, "weight": weight}]}
    forms = snippets(options_of(body), "h:1", is_secured=False)
    words = shlex.split(forms["cli"].replace("\\\n", ""))
    (wish,) = parse_preferences([words[words.index("--preference") + 1]])
    assert wish == Preference(text, weight)
    data = json.loads(shlex.split(forms["grpcurl"])[3])
    assert data["preferences"] == [{"text": text, "weight": weight}]
    found = re.search(r"Preference\((.*)\)\],", forms["python"], re.DOTALL)
    assert found is not None
    assert eval(f"Preference({found[1]})", {"Preference": Preference}) == wish
