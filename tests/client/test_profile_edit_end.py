"""What `pad profile edit` leaves behind, however it ends and whatever the editor does."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client.conftest import Pad
from tests.client.fake_server import FakeServer
from tests.client.test_cli_profiles import store, wishes

PAD = (sys.executable, "-c", "from pad_client.cli import main; main()", "profile", "edit", "ann")
# Does what it is told with the file ({0}), says so, and stays open until it is ended.
EDITOR = """\
import os, pathlib, signal, sys, time
path = pathlib.Path(sys.argv[1])
{0}
with open({1!r}, "w") as opened:
    opened.write(str(os.getpid()))
while True:
    time.sleep(0.01)  # a signal just before a longer wait would wait with it
"""
SAVED = "path.write_text('half a thought')"
SAVES_WHEN_ENDED = """\
def save(*_):
    path.with_name("profile.toml.save").write_text("half a thought")
    sys.exit(1)
signal.signal(signal.SIGTERM, save)"""


class OpenEdit:
    """`pad profile edit` as a process of its own, with the editor open."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self._address = address
        self._pad: subprocess.Popen[str] | None = None
        self._editor: int | None = None

    async def open(self, what_it_does: str) -> None:
        """Start it; return when the editor is open."""
        told = self._folder / "told"
        os.mkfifo(told)
        script = self._folder / "editor.py"
        script.write_text(EDITOR.format(what_it_does, str(told)))
        environment = {
            **os.environ,
            "TMPDIR": str(self._folder),
            "PAD_SERVER": self._address,
            "EDITOR": f"{sys.executable} {script}",
        }
        environment.pop("VISUAL", None)
        self._pad = await asyncio.to_thread(
            subprocess.Popen, PAD, env=environment, stderr=subprocess.PIPE, text=True
        )
        self._editor = int(await asyncio.to_thread(told.read_text))

    def send(self, number: int) -> None:
        """Send it a signal, not its editor."""
        assert self._pad is not None
        self._pad.send_signal(number)

    def end_editor(self) -> None:
        """End the editor by SIGKILL, if it is open."""
        if self._editor is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._editor, signal.SIGKILL)

    async def end(self) -> str:
        """Wait until it has ended; return what it said."""
        assert self._pad is not None
        _, said = await asyncio.to_thread(self._pad.communicate, None, 20)
        return said

    @property
    def left(self) -> dict[str, str]:
        """The files that it left behind."""
        paths = self._folder.glob("pad-profile-*/*")
        return {path.name: path.read_text() for path in paths}

    @property
    def folders(self) -> list[Path]:
        """The folders that it left behind."""
        return list(self._folder.glob("pad-profile-*"))

    def close(self) -> None:
        """Leave nothing running."""
        self.end_editor()
        if self._pad is not None:
            self._pad.kill()
            self._pad.communicate()


@pytest.fixture
async def open_edit(tmp_path: Path, address: str, fake: FakeServer) -> AsyncIterator[OpenEdit]:
    store(fake, "ann", "Be brief.")
    edit = OpenEdit(tmp_path, address)
    yield edit
    edit.close()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
async def test_a_closed_terminal_leaves_no_profile_that_nobody_edited(
    open_edit: OpenEdit, number: int
) -> None:
    await open_edit.open("pass")
    open_edit.send(number)
    open_edit.send(number)  # a shell passes on what the kernel has sent already
    said = await open_edit.end()
    assert open_edit.folders == []
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
async def test_a_closed_terminal_loses_nothing_that_was_typed(
    open_edit: OpenEdit, fake: FakeServer, number: int
) -> None:
    await open_edit.open(SAVED)
    open_edit.send(number)
    said = await open_edit.end()
    assert open_edit.left == {"profile.toml": "half a thought"}
    assert f"What you wrote is kept in {open_edit.folders[0] / 'profile.toml'}" in said
    assert wishes(fake, "ann") == [("Be brief.", 1.0)]


async def test_what_an_editor_saves_beside_the_file_when_it_is_ended_is_kept(
    open_edit: OpenEdit,
) -> None:
    await open_edit.open(SAVES_WHEN_ENDED)
    open_edit.send(signal.SIGTERM)
    said = await open_edit.end()
    assert open_edit.left["profile.toml.save"] == "half a thought"
    assert f"What you wrote is kept in {open_edit.folders[0]}" in said


async def test_control_c_is_the_editors(open_edit: OpenEdit) -> None:
    """Vim leaves its input mode by it; the terminal sends it to `pad` too."""
    await open_edit.open(SAVED)
    open_edit.send(signal.SIGINT)
    open_edit.end_editor()
    said = await open_edit.end()
    assert "ended with status -9" in said
    assert open_edit.left == {"profile.toml": "half a thought"}


@pytest.mark.parametrize("command", [" ", 'vi "'])
async def test_an_editor_that_is_no_command_is_named_and_nothing_is_run(
    pad: Pad, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("VISUAL", command)
    result = await pad("profile", "edit", "ann")
    assert result.exit_code == 1
    assert f"VISUAL or EDITOR: must be a command, got {command!r}" in result.stderr
    assert os.listdir(tmp_path) == []


async def test_a_file_that_became_a_folder_is_told_and_kept(
    pad: Pad, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    script = 'rm "$0"; mkdir "$0"; echo typed > "$0/text"'
    monkeypatch.setenv("VISUAL", f"sh -c '{script}'")
    result = await pad("profile", "edit", "ann", stdin="n\n")
    assert result.exit_code == 1
    assert "pad: the file cannot be read: Is a directory" in result.stderr
    kept = result.stderr.partition("What you wrote is kept in ")[2].strip()
    assert os.listdir(kept) == ["text"]
