"""How commands reach a server: by what the options before the command said."""

import typer

from pad_client.access import AccessOptions
from pad_client.aio import AsyncGeneratorClient
from pad_client.client import GeneratorClient


def connect_async(context: typer.Context, server: str, timeout_s: float) -> AsyncGeneratorClient:
    """Return what `connect` does, for an event loop."""
    access: AccessOptions = AccessOptions() if context.obj is None else context.obj
    return AsyncGeneratorClient(server, timeout_s=timeout_s, **access)


def connect(context: typer.Context, server: str, timeout_s: float) -> GeneratorClient:
    """Return a client that shows what the options before the command say."""
    access: AccessOptions = AccessOptions() if context.obj is None else context.obj
    return GeneratorClient(server, timeout_s=timeout_s, **access)
