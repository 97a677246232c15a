"""The process: what stops its start, and that it lets sessions finish when it is told to stop."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from pad.v1 import reward_pb2, reward_pb2_grpc
from reward_svc.__main__ import main
from reward_svc.settings import RewardSettings
from svc_common.lm.loading import load_model
from tests.reward_svc.replica import BRIEF
from tests.reward_svc.service import candidate_rows, commit_rows, context_message


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Take back what `main` does to the logging of the process: its stream is closed later."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def set_environment(monkeypatch: pytest.MonkeyPatch, **variables: object) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"REWARD_{name}", str(value))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "REWARD_MODEL_DIR: must be set"),
        ({"MODEL_DIR": "/nowhere"}, "REWARD_MODEL_DIR=/nowhere: must be a model folder"),
        ({"MODEL_DIR": "/x", "NUM_SLOT": 3}, "REWARD_NUM_SLOT: is no setting of this service"),
        ({"MODEL_DIR": "/x", "NUM_SLOTS": 1}, "REWARD_NUM_SLOTS: must be 2..4096, got 1"),
        ({"MODEL_DIR": "/x", "DEVICE": "abacus"}, "REWARD_DEVICE: must be a torch device of"),
        ({"MODEL_DIR": "/x", "DEVICE": "cuda:99"}, "REWARD_DEVICE: must be a torch device of"),
        ({"MODEL_DIR": "/x", "DTYPE": "int8"}, "REWARD_DTYPE: must be float32 | bfloat16"),
    ],
)
def test_a_bad_setting_stops_the_start_with_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, object],
    message: str,
) -> None:
    set_environment(monkeypatch, **variables)
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["reason"].startswith(message)


async def test_the_process_serves_and_lets_a_session_finish_after_sigterm(
    settings: RewardSettings,
) -> None:
    process, address = await start(settings)
    try:
        async with asyncio.timeout(60), grpc.aio.insecure_channel(address) as channel:
            call = reward_pb2_grpc.RewardServiceStub(channel).Score()  # type: ignore[no-untyped-call]
            opening = reward_pb2.SessionOpen(
                session=1,
                context=context_message(BRIEF),
                tokenizer_fingerprint=fingerprint(settings.model_dir),
            )
            await call.write(reward_pb2.ScoreRequest(opens=[opening]))
            assert (await call.read()).opened
            process.send_signal(signal.SIGTERM)
            opening.session = 2
            while not (refused := await try_to_open(call, opening)):
                opening.session += 1  # the signal is on its way
            assert refused == reward_pb2.ROW_ERROR_REASON_NO_FREE_SLOTS
            commits, asked = commit_rows((1, 0, 42)), candidate_rows((1, 1, [4, 5]))
            request = reward_pb2.ScoreRequest(commits=commits, candidates=asked, batch_id=1)
            await call.write(request)
            assert (await call.read()).rewards.rewards
            await call.write(reward_pb2.ScoreRequest(closes=range(1, opening.session)))
            assert await call.read() is grpc.aio.EOF
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def start(settings: RewardSettings) -> tuple[asyncio.subprocess.Process, str]:
    """Start the service on a free port and return it with its address."""
    variables = {
        "REWARD_MODEL_DIR": str(settings.model_dir),
        "REWARD_BACKBONE_DIR": settings.backbone_dir,
        "REWARD_VALUE_HEAD": "stage1",
        "REWARD_LISTEN": "127.0.0.1:0",
        "REWARD_METRICS_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reward_svc"),
        env=os.environ | variables,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            async for line in process.stderr:
                if b'"serving"' in line:
                    return process, json.loads(line)["address"]
    except BaseException:
        process.kill()
        await process.wait()
        raise
    raise AssertionError("the service ended before it served")


async def try_to_open(call: object, opening: reward_pb2.SessionOpen) -> int:
    """Open a session; return 0 or why it was refused."""
    await call.write(reward_pb2.ScoreRequest(opens=[opening]))  # type: ignore[attr-defined]
    errors = (await call.read()).row_errors  # type: ignore[attr-defined]
    return int(errors[0].reason) if errors else 0


def fingerprint(model_dir: Path) -> str:
    loaded = load_model(
        model_dir, dtype="float32", device="cpu", context_length=64, setting="REWARD_MODEL_DIR"
    )
    return loaded.tokenizer.fingerprint
