"""`pad playground`: a web page to try profiles on, with a server of its own or in front of one."""

import tempfile
import time
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from pad_client import presets
from pad_client.access import AccessOptions
from pad_client.cli.connection import connect
from pad_client.cli.console import new_console
from pad_client.cli.demo_script import DEMO_USERS
from pad_client.cli.profile_view import PresetsOption
from pad_client.cli.up import (
    DEFAULT_PLAYGROUND_PORT,
    POLL_S,
    ModelsOption,
    StartTimeoutOption,
    print_playground,
    started,
)
from pad_client.client import GeneratorClient
from pad_client.embedded import StackOptions, default_models_dir
from pad_client.errors import DeadlineExceededError, PadError, UnavailableError


def playground(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            "-s",
            envvar="PAD_SERVER",
            metavar="HOST:PORT",
            help="A generator that runs already; without it, one is started with the demo models.",
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            *("--port", "--playground-port"),  # the second is its name in `pad up`, and in hints
            min=0,
            max=65535,
            help="Where the page is served; 0: any free one.",
        ),
    ] = DEFAULT_PLAYGROUND_PORT,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser.")
    ] = False,
    presets_file: PresetsOption = None,
    models: ModelsOption = None,
    reward_replicas: Annotated[
        int | None, typer.Option(min=1, help="Reward services to start; default: 1.")
    ] = None,
    start_timeout: StartTimeoutOption = 180.0,
) -> None:
    """Run a web page to try profiles on, until Ctrl-C."""
    if server and (models or reward_replicas):
        option = "--models" if models else "--reward-replicas"
        raise typer.BadParameter("is not for a --server that runs already", param_hint=option)
    levels = {}
    if presets_file is not None:
        presets.load(presets_file)  # so that a mistake in it is told before anything starts
        levels["PLAYGROUND_PRESETS"] = str(presets_file)
    with _environment(context.obj or AccessOptions()) as environment:
        options = StackOptions(
            models_dir=models or default_models_dir(),
            num_reward_replicas=reward_replicas or 1,
            start_timeout_s=start_timeout,
            generator=server or "",
            has_playground=True,
            playground_port=port or None,
            playground_environment={**levels, **(environment if server else {})},
        )
        if server:
            _check(context, server)
        try:
            with started(options) as stack:
                if not server:
                    _put_users(stack.address)
                print_playground(stack.addresses["playground"])
                if server:
                    _note_silence(context, server)
                if open_page:
                    webbrowser.open(f"http://{stack.addresses['playground']}/")
                while True:
                    for loss in stack.check():
                        typer.echo(loss, err=True)
                    time.sleep(POLL_S)
        except KeyboardInterrupt:
            typer.echo("\nStopped; nothing is left running.")


def _check(context: typer.Context, server: str) -> None:
    """Fail, as every command does, where the options before the command cannot be used."""
    with connect(context, server, 1.0):
        pass


def _note_silence(context: typer.Context, server: str) -> None:
    """Say if nothing answers at the server yet; whatever it answers, the page shows."""
    try:
        with connect(context, server, 1.0) as client:
            client.server_info()
    except (DeadlineExceededError, UnavailableError) as error:
        if not error.request_id:  # else it is there, and something that it needs is not
            note = f"note: no generator answers at {server} yet"
            new_console(stderr=True).print(note, soft_wrap=True)
    except PadError:
        return


def _put_users(address: str) -> None:
    """Store the users of `pad demo`, so that there is somebody to load."""
    with GeneratorClient(address) as client:
        for user in DEMO_USERS:
            client.put_profile(user.user_id, user.preferences)
    names = ", ".join(user.user_id for user in DEMO_USERS)
    new_console().print(f"Stored profiles to load: {names}.", soft_wrap=True)


@contextmanager
def _environment(access: AccessOptions) -> Iterator[Mapping[str, str]]:
    """Yield the settings by which the playground shows who it is; a token goes by a file."""
    values = {
        name: str(access[name])
        for name in ("ca_file", "cert_file", "key_file", "server_name", "token_file")
        if access.get(name)
    }
    values |= {name: "true" for name in ("tls", "allow_plaintext_token") if access.get(name)}
    with tempfile.TemporaryDirectory(prefix="pad-") as folder:  # mode 0700
        token = access.get("token")
        if token:
            path = Path(folder) / "token"
            path.write_text(token, encoding="ascii")
            values["token_file"] = str(path)
        yield {f"PLAYGROUND_{name.upper()}": value for name, value in values.items()}
