"""The `pad` command; needs typer and rich, the extra `cli`."""

import sys

try:
    from pad_client.cli.app import app
except ModuleNotFoundError as error:
    if error.name not in ("typer", "rich"):
        raise
    app = None  # type: ignore[assignment]


def main() -> None:
    """Run the command, or say what is missing for it."""
    if app is None:
        sys.exit("pad: the command line needs typer and rich: pip install '.[cli]' in a checkout")
    app()
