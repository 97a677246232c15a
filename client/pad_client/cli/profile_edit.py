"""`pad profile edit`: a profile in the editor of one's choice."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import typer
from rich.console import Console

from pad_client import presets
from pad_client.cli.connection import connect
from pad_client.cli.console import (
    DEFAULT_SERVER,
    ServerOption,
    TimeoutOption,
    new_console,
    sigterm_as_interrupt,
)
from pad_client.cli.profile_form import Form, FormError, read_form, write_form, write_wishes
from pad_client.cli.profile_view import PresetsOption, UserArgument
from pad_client.cli.strength import print_strength_note
from pad_client.client import GeneratorClient
from pad_client.errors import ConflictError, NotFoundError, PadError
from pad_client.presets import Presets
from pad_client.types import Profile

EDITORS = ("nano", "vim", "vi")  # where neither VISUAL nor EDITOR names one
MAX_END_S = 3.0  # for an editor to save what is in it


class EditorError(PadError):
    """The editor cannot be started, or failed."""

    hint = "set VISUAL or EDITOR to the command of an editor"


def edit(
    context: typer.Context,
    user: UserArgument,
    presets_file: PresetsOption = None,
    timeout: TimeoutOption = 10.0,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Change a profile in $VISUAL or $EDITOR, or create one."""
    known = presets.load(presets_file)
    with connect(context, server, timeout) as client:
        _Edit(client, user, known).run()


class _Edit:
    """One person's work on one profile. What was typed stays in a file until it is written."""

    def __init__(self, client: GeneratorClient, user: str, known: Presets) -> None:
        self._client = client
        self._user = user
        self._presets = known
        self._notes: Console = new_console(stderr=True)
        self._stored: Profile | None = None

    def run(self) -> None:
        """Edit until it is written, given up, or nothing was changed.

        Raises:
            PadError: The profile cannot be read, or the editor not be started.
        """
        self._stored = self._read()
        offered = write_form(self._title, self._form, self._presets)
        with sigterm_as_interrupt(hangup_too=True):
            folder = Path(tempfile.mkdtemp(prefix="pad-profile-"))  # the user's own alone may look
            path = folder / "profile.toml"
            is_done = False
            try:
                path.write_text(offered, encoding="utf-8")
                is_done = self._edit(path, offered)
            finally:
                self._tidy_up(path, None if is_done else offered)
        if not is_done:
            raise typer.Exit(1)

    def _tidy_up(self, path: Path, offered: str | None) -> None:
        """Remove the folder, unless there is more in it than the file as it was offered."""
        is_typed = [
            each
            for each in path.parent.iterdir()  # an editor that is ended may save beside the file
            if each != path or not path.is_file() or path.read_text("utf-8", "replace") != offered
        ]
        if offered is None or not is_typed:
            shutil.rmtree(path.parent)
            return
        kept = path if is_typed == [path] else path.parent
        with contextlib.suppress(OSError):  # the terminal may be gone
            self._notes.print(f"What you wrote is kept in {kept}", soft_wrap=True)

    def _edit(self, path: Path, offered: str) -> bool:
        """Return whether nothing is left to be done with the file."""
        while True:
            _run_editor(path)
            try:
                text = path.read_text(encoding="utf-8")
                form = self._form if text == offered else read_form(text, self._presets)
                self._write_if_changed(form)
            except FileNotFoundError as error:
                raise EditorError("the file is gone: nothing is written") from error
            except OSError as error:
                self._notes.print(f"pad: the file cannot be read: {error.strerror}", style="red")
            except UnicodeDecodeError:
                self._notes.print("pad: the file must be UTF-8", style="red")
            except FormError as error:
                self._notes.print(f"pad: {error}", style="red", soft_wrap=True)
            except ConflictError:
                offered = ""  # even unchanged it says something else than what is stored now
                if form is None or not self._show_conflict(form):
                    return True
            except PadError as error:
                self._notes.print(f"pad: not written: {error}", style="red", soft_wrap=True)
            else:
                return True
            if not self._wants_to_go_on():
                return False

    @property
    def _form(self) -> Form | None:
        return None if self._stored is None else Form.of(self._stored)

    @property
    def _title(self) -> str:
        revision = "a new one" if self._stored is None else f"revision {self._stored.revision}"
        return f"Profile of {self._user}, {revision}."

    def _read(self) -> Profile | None:
        try:
            return self._client.get_profile(self._user)
        except NotFoundError:
            return None

    def _write_if_changed(self, form: Form | None) -> None:
        if form is None or form == self._form:
            typer.echo("Nothing was changed.")
            return
        profile = self._client.put_profile(
            self._user,
            form.preferences,
            beta=form.beta,
            expected_revision=0 if self._stored is None else self._stored.revision,
        )
        typer.echo(f"The profile of {self._user} is written as revision {profile.revision}.")
        print_strength_note(profile.preferences, profile.beta)

    def _show_conflict(self, mine: Form) -> bool:
        """Show what somebody else wrote beside one's own; say whether they differ."""
        self._stored = self._read()
        theirs = self._form
        if theirs == mine:
            typer.echo("Somebody else has written the same meanwhile.")
            return False
        self._notes.print(
            "pad: the profile was changed meanwhile, yours is not written", style="red"
        )
        now = "nothing: it was erased" if theirs is None else write_wishes(theirs).strip()
        title = "stored now" if self._stored is None else f"stored now ({self._title})"
        self._notes.print(f"\n--- {title}\n{now}\n\n--- yours\n{write_wishes(mine).strip()}\n")
        self._notes.print("Save yours to replace what is stored now.")
        return True

    def _wants_to_go_on(self) -> bool:
        """Ask; whoever cannot answer does not."""
        try:
            return typer.confirm("Open the editor again?", default=True, err=True)
        except typer.Abort:
            typer.echo(err=True)  # the question has no line end of its own
            return False


def _run_editor(path: Path) -> None:
    """Have the user edit a file, and wait for it.

    Raises:
        EditorError: There is no editor, or it failed.
    """
    chosen = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    found = next((name for name in EDITORS if shutil.which(name)), None)
    if not (chosen or found):
        raise EditorError("no editor: VISUAL and EDITOR are not set")
    try:
        command = shlex.split(chosen) if chosen else [str(found)]
    except ValueError:  # a quotation that does not end
        command = []
    if not command:
        raise EditorError(f"VISUAL or EDITOR: must be a command, got {chosen!r}")
    with _interrupt_is_the_editors():
        try:
            editor = subprocess.Popen([*command, str(path)])
        except OSError as error:
            raise EditorError(f"editor {command[0]}: {error}") from error
        with editor:
            try:
                status = editor.wait()
            except BaseException:
                _end(editor)
                raise
    if status:
        raise EditorError(f"editor {command[0]}: ended with status {status}")


@contextlib.contextmanager
def _interrupt_is_the_editors() -> Iterator[None]:
    """Leave Ctrl-C to the editor: in some it ends no more than what is being typed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are not ours to handle here
        return
    # A function, as a child would inherit SIG_IGN.
    previous = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _end(editor: subprocess.Popen[bytes]) -> None:
    """End an editor; most save what is typed when they are asked to end."""
    editor.terminate()
    try:
        editor.wait(MAX_END_S)
    except subprocess.TimeoutExpired:
        editor.kill()
