"""The `pad` command; needs typer and rich, the extra `cli`."""

import os
import sys
from importlib.util import find_spec

from pad_client.cli.bash_words import join_words

try:
    from pad_client.cli.app import app
except ModuleNotFoundError as error:
    if error.name != "typer":
        raise
    app = None  # type: ignore[assignment]


def main() -> None:
    """Run the command, or say what is missing for it."""
    if app is None or find_spec("rich") is None:
        sys.exit(
            "pad: the command line needs typer and rich: pip install './client[cli]' in a checkout"
        )
    if "_PAD_COMPLETE" in os.environ:  # in the middle of somebody's command line
        os.environ["GRPC_VERBOSITY"] = "NONE"
        join_words(os.environ)
    app()
