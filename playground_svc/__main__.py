"""Start the playground: build every object, hand it down, serve until told to stop."""

from svc_common.lifetime import exit_on_signals

if __name__ == "__main__":  # before the imports, which take a second
    exit_on_signals()

import asyncio
import os
import sys

from edge_svc.http_server import bind, http_config, make_room, run_until_told
from edge_svc.open_connections import OpenConnections
from pad_client import AccessOptions, AsyncGeneratorClient, PadError
from pad_client.presets import Presets, load
from playground_svc.app import Playground, new_app
from playground_svc.settings import PREFIX, PlaygroundSettings
from svc_common.logs import configure_logging, log_everything, log_failed_start
from svc_common.settings import SettingsError, load_settings


def main() -> int:
    """Return the exit status: 0 after a drain, 2 where the settings cannot be used."""
    configure_logging("info", sys.stderr)  # until the settings are known
    try:
        settings = load_settings(PlaygroundSettings, PREFIX, os.environ)
        configure_logging(settings.log_level, sys.stderr)
        asyncio.run(run(settings))
    except SettingsError as error:
        log_failed_start(error)
        return 2
    return 0


async def run(settings: PlaygroundSettings) -> None:
    """Serve until SIGTERM.

    Raises:
        SettingsError: The presets cannot be used, the address not be listened on, or the generator
            not be called so.
    """
    make_room(settings.max_connections, settings.max_requests, PREFIX)
    presets = load_presets(settings)
    connections = OpenConnections(settings.max_connections)
    with bind(settings.listen, f"{PREFIX}LISTEN", connections) as listener:
        async with new_client(settings) as client:
            playground = Playground(settings, client, presets)
            app = new_app(settings, playground)
            config = http_config(
                app,
                connections,
                keep_alive_s=settings.keep_alive_s,
                arrival_s=settings.body_timeout_s,
                drain_s=settings.drain_s,
            )
            await run_until_told(config, listener, playground)


def load_presets(settings: PlaygroundSettings) -> Presets:
    """Return the dimensions for the sliders.

    Raises:
        SettingsError: The file cannot be read, or breaks a rule.
    """
    try:
        return load(settings.presets or None)
    except PadError as error:
        raise SettingsError(f"{PREFIX}PRESETS: {error}") from error


def new_client(settings: PlaygroundSettings) -> AsyncGeneratorClient:
    """Return a client of the generator that shows what the settings say.

    Raises:
        SettingsError: A file cannot be used, or the token would be sent in the clear.
    """
    access = AccessOptions(
        tls=settings.tls,
        ca_file=settings.ca_file or None,
        cert_file=settings.cert_file or None,
        key_file=settings.key_file or None,
        server_name=settings.server_name or None,
        token_file=settings.token_file or None,
        allow_plaintext_token=settings.allow_plaintext_token,
    )
    try:
        return AsyncGeneratorClient(settings.generator, **access)
    except PadError as error:
        raise SettingsError(f"{PREFIX}{error}") from error


if __name__ == "__main__":
    log_everything()
    sys.exit(main())
