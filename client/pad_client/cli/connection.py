"""How commands reach a server: by what the options before the command said."""

import typer

from pad_client.access import AccessOptions
from pad_client.client import GeneratorClient


def connect(context: typer.Context, server: str, timeout_s: float) -> GeneratorClient:
    """Return a client that shows what the options before the command say."""
    access: AccessOptions = AccessOptions() if context.obj is None else context.obj
    return GeneratorClient(server, timeout_s=timeout_s, **access)
