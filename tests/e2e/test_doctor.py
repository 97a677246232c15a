"""`pad doctor` against real services and the bundled models."""

import json

from typer.testing import CliRunner

from pad_client import GeneratorClient
from pad_client.cli.app import app
from pad_client.doctor.models import tokenizer_fingerprint
from pad_client.embedded import EmbeddedStack, default_models_dir


def test_a_running_stack_is_well(stack: EmbeddedStack) -> None:
    result = CliRunner().invoke(app, ["doctor", "--quick", "--json", "-s", stack.address])
    rows = {row["check"]: row for row in map(json.loads, result.stdout.splitlines())}
    parts = ("health", "version", "replicas", "store", "answer")
    assert {rows[f"server.{part}"]["level"] for part in parts} == {"ok"}
    assert {row["level"] for name, row in rows.items() if name.startswith("models.")} == {"ok"}


def test_lost_rewards_are_found() -> None:
    with EmbeddedStack() as stack:
        stack.kill("reward-0")
        result = CliRunner().invoke(app, ["doctor", "--quick", "--json", "-s", stack.address])
    rows = {row["check"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 1
    assert rows["server.replicas"]["level"] == "fail"
    assert "GENERATOR_REWARD_TARGETS" in rows["server.replicas"]["advice"]
    assert rows["server.answer"]["level"] == "fail"
    assert rows["server.store"]["level"] == "ok"


def test_fingerprint_of_the_file_is_what_the_service_says(client: GeneratorClient) -> None:
    """The file is read without the model library, the service uses it."""
    found = tokenizer_fingerprint(default_models_dir() / "demo-base")
    assert found == client.server_info().tokenizer_fingerprint
