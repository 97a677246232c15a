"""Both services run where nothing can be written: no home, a working directory of somebody else."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pad_client import GeneratorClient, Message

HOME = "/nonexistent"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux"),
]


@pytest.fixture
def folders() -> Iterator[tuple[Path, Path]]:
    """A working directory that cannot be written to, and one for temporary files."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    cwd, scratch = root / "cwd", root / "tmp"
    cwd.mkdir(mode=0o555)
    scratch.mkdir()
    scratch.chmod(0o777)
    yield cwd, scratch
    shutil.rmtree(root)


def without_rights() -> list[str]:
    """Return what a command begins with to run as in the containers.

    Root without capabilities keeps to the permissions of folders.
    """
    command = ["setpriv", "--no-new-privs"]
    return [*command, "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else command


@contextmanager
def running(
    module: str, settings: dict[str, str], folders: tuple[Path, Path]
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Start a service as a container would and yield it with its address, once it serves."""
    cwd, scratch = folders
    kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"HOME": HOME, "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [*without_rights(), sys.executable, "-m", module],
        cwd=cwd,
        env=environment | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, _address(process)
    finally:
        process.kill()
        process.communicate()


def _address(process: "subprocess.Popen[str]") -> str:
    """Return where a process serves, which it says in its log."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        fields = json.loads(line) if line.startswith("{") else {}
        if fields.get("event") == "serving":
            address = str(fields["address"])
        if fields.get("event") == "taking calls":
            return address
    pytest.fail("".join(lines))


def test_nothing_is_written_outside_of_tmp(
    redis_url: str, models_dir: Path, folders: tuple[Path, Path]
) -> None:
    cwd, scratch = folders
    common = {"LISTEN": "127.0.0.1:0", "METRICS_PORT": "0", "LOG_LEVEL": "debug"}
    reward_settings = {f"REWARD_{name}": value for name, value in common.items()} | {
        "REWARD_MODEL_DIR": str(models_dir / "demo-persrm"),
        "REWARD_BACKBONE_DIR": str(models_dir / "demo-base"),
    }
    with ExitStack() as stack:
        reward, address = stack.enter_context(running("reward_svc", reward_settings, folders))
        generator_settings = {f"GENERATOR_{name}": value for name, value in common.items()} | {
            "GENERATOR_MODEL_DIR": str(models_dir / "demo-base"),
            "GENERATOR_REWARD_TARGETS": address,
            "GENERATOR_REDIS_URL": redis_url,
        }
        generator, address = stack.enter_context(
            running("generator_svc", generator_settings, folders)
        )
        with GeneratorClient(address) as client:
            client.put_profile("ann", ["Be brief."])
            answer = client.complete(
                messages=[Message("user", "Hello.")], user_id="ann", max_tokens=8
            )
        assert answer.summary.num_guided_tokens > 0
        for process in (generator, reward):
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    result = subprocess.run(
        [*without_rights(), "touch", str(cwd / "x")], capture_output=True, check=False
    )
    assert result.returncode != 0  # they could not have written there
    assert not Path(HOME).exists()
    assert not list(cwd.iterdir())
    left = [path for path in scratch.rglob("*") if path.is_file()]
    assert not left  # torch makes an empty folder, and nothing else is kept even there
