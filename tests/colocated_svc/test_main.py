"""The process: what stops its start, and that it answers as the two services do."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from colocated_svc.loading import load_both
from colocated_svc.settings import load_both_settings
from pad_client import Completion, GeneratorClient, Message
from svc_common.lm.loading import ModelFolderError
from svc_common.settings import SettingsError
from tests.colocated_svc.pair import save_pair
from tests.otlp_receiver import receiving
from tests.tiny_model import save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")
CHAT = [Message("user", "Tell me of the sea.")]
LISTEN = {"LISTEN": "127.0.0.1:0", "METRICS_PORT": "0"}


@dataclass
class Service:
    process: "subprocess.Popen[str]"
    address: str


@contextmanager
def running(module: str, variables: dict[str, str]) -> Iterator[Service]:
    """Start a service, and yield it once it serves."""
    prefix = "REWARD" if module == "reward_svc" else "GENERATOR"
    variables = variables | {f"{prefix}_{name}": value for name, value in LISTEN.items()}
    with subprocess.Popen(
        [sys.executable, "-m", module],
        env=os.environ | variables,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        log = []
        for line in process.stderr:
            log.append(line)
            if '"taking calls"' in line:
                break
        else:
            pytest.fail("".join(log))
        # Whoever fills its pipe waits for ever.
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        try:
            (serving,) = (line for line in log if '"serving"' in line)
            yield Service(process, json.loads(serving)["address"])
        finally:
            process.kill()
            drain.join()


def only(variables: dict[str, str], prefix: str) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith(prefix)}


def write_all(address: str) -> list[Completion]:
    """Write by every strategy, from a profile and from wishes in the request."""
    requests: list[dict[str, Any]] = [
        {"user_id": "ann"},
        {"user_id": "ann", "strategy": "pad-released", "seed": 3, "temperature": 0.8},
        {"strategy": "base"},
        {"strategy": "prompt", "preferences": ["Be brief."]},
        {"preferences": ["Be brief."], "beta": 0.0},
        {"preferences": ["Be brief.", "Rhyme."], "preference_in_base_prompt": True},
        {"strategy": "best-of-n", "preferences": ["Be brief."], "num_samples": 3, "seed": 5},
    ]
    with GeneratorClient(address) as client:
        client.put_profile("ann", ["Be kind.", "Rhyme."])
        return [
            client.complete(messages=CHAT, max_tokens=10, ignore_end_of_turn=True, **request)
            for request in requests
        ]


def test_the_process_answers_as_the_two_services_do_and_drains(
    variables: dict[str, str], redis_url: str
) -> None:
    variables = variables | {"GENERATOR_REDIS_URL": redis_url}
    with ExitStack() as services:
        backbone = {"REWARD_BACKBONE_DIR": variables["GENERATOR_MODEL_DIR"]}
        length = {"REWARD_CONTEXT_LENGTH": variables["GENERATOR_CONTEXT_LENGTH"]}
        reward = services.enter_context(
            running("reward_svc", only(variables, "REWARD_") | backbone | length)
        )
        targets = {"GENERATOR_REWARD_TARGETS": reward.address}
        apart = services.enter_context(
            running("generator_svc", only(variables, "GENERATOR_") | targets)
        )
        expected = write_all(apart.address)
    with (
        receiving() as receiver,
        running(
            "colocated_svc", variables | {"GENERATOR_TRACES_ENDPOINT": receiver.address}
        ) as service,
    ):
        answers = write_all(service.address)
        with GeneratorClient(service.address) as client:
            (replica,) = client.server_info().reward_replicas
        assert (replica.address, replica.is_available) == ("in-process", True)
        assert replica.num_free_slots == 64
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0
        traced = {span.attributes["pad.request_id"]: span.attributes for span in receiver.spans}
    for answer in answers:
        told = traced[answer.summary.request_id]
        assert told["pad.guided_tokens"] == answer.summary.num_guided_tokens
        assert told["pad.reward_model_version"] == answer.summary.reward_model_version
    for answer, other in zip(answers, expected, strict=True):
        assert answer.text == other.text
        mine, theirs = ([token.reward for token in one.tokens] for one in (answer, other))
        assert mine == pytest.approx(theirs, abs=1e-3)
        assert answer.summary.num_guided_tokens == other.summary.num_guided_tokens
        assert answer.summary.reward_model_version == other.summary.reward_model_version
    assert answers[0].text != answers[2].text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"GENERATOR_REWARD_TARGETS": "x:1"}, "GENERATOR_REWARD_TARGETS: must not be set"),
        ({"GENERATOR_RUNS_AHEAD": "true"}, "GENERATOR_RUNS_AHEAD: must not be set"),
        ({"REWARD_DTYPE": "float32"}, "REWARD_DTYPE: is no setting of this service"),
        ({"REWARD_LISTEN": "x:1"}, "REWARD_LISTEN: is no setting of this service"),
        ({"REWARD_CONDITIONING": "vector"}, "REWARD_CONDITIONING: must be auto | prompt, got 'v"),
        ({"REWARD_BACKBONE_DIR": "/other"}, "REWARD_BACKBONE_DIR: must be empty or GENERATOR_MOD"),
        ({"GENERATOR_NUM_SLOT": "3"}, "did you mean GENERATOR_NUM_SLOTS"),
    ],
)
def test_a_setting_that_has_no_meaning_here_is_refused(
    variables: dict[str, str], changes: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as error:
        load_both_settings(variables | changes)
    assert message in str(error.value)


def test_rewards_are_in_the_process_itself(variables: dict[str, str]) -> None:
    assert load_both_settings(variables)[0].reward_targets == ("in-process",)


def refusal(variables: dict[str, str]) -> str:
    """Return why the models cannot be loaded as a pair."""
    with pytest.raises(ModelFolderError) as error:
        load_both(*load_both_settings(variables))
    message = str(error.value)
    assert "run python -m generator_svc and python -m reward_svc instead" in message
    return message


def test_a_reward_model_that_is_no_adapter_of_the_base_is_refused(
    variables: dict[str, str], tmp_path: Path
) -> None:
    whole = save_tiny_model(tmp_path / "whole")
    message = refusal(variables | {"REWARD_MODEL_DIR": str(whole)})
    assert "must hold a LoRA adapter of GENERATOR_MODEL_DIR=" in message
    message = refusal(variables | {"GENERATOR_MODEL_DIR": str(whole)})
    assert f"must hold a LoRA adapter of GENERATOR_MODEL_DIR={whole}, is one of " in message


def test_an_adapter_that_changes_more_than_the_backbones_layers_is_refused(tmp_path: Path) -> None:
    variables = save_pair(tmp_path, use_dora=True)
    assert "by W + B A and nothing else" in refusal(variables)


def test_a_model_that_the_lean_forward_cannot_run_is_refused(tmp_path: Path) -> None:
    variables = save_pair(tmp_path / "gpt2", "gpt2", target_modules=["c_attn"], fan_in_fan_out=True)
    assert "must be run by the lean forward" in refusal(variables)
    variables = save_pair(tmp_path / "llama") | {"GENERATOR_FORWARD": "transformers"}
    assert "got LlamaForCausalLM with GENERATOR_FORWARD=transformers" in refusal(variables)


def test_a_folder_of_another_conditioning_is_refused(tmp_path: Path) -> None:
    variables = save_pair(tmp_path)
    config = tmp_path / "adapter" / "pad_config.json"
    config.write_text(json.dumps({"stage": 1, "conditioning": "vector"}))
    assert "conditioning must be prompt" in refusal(variables)


def test_a_wrong_start_ends_with_one_line(variables: dict[str, str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "colocated_svc"],
        env=os.environ | variables | {"REWARD_MODEL_DIR": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    reason = json.loads(line)["reason"]
    assert reason.startswith("REWARD_MODEL_DIR=/nowhere: must hold a LoRA adapter of")
