"""`pad evaluate`: measure whether the models personalise, as a child process."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from pad_client.cli.train import run_child
from pad_client.cli.up import ModelsOption
from pad_client.embedded import StackError, default_models_dir
from pad_client.embedded.child import OWN_PYTHON

_MODULE = "evaluation"


def evaluate(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="The demo data.")],
    models: ModelsOption = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where report and replies go.")
    ] = Path("evaluation-out"),
    prompts: Annotated[
        int | None, typer.Option(min=1, help="Prompts to write replies to; default: 50.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Everything once, on few prompts.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that write replies.")] = 2,
) -> None:
    """Measure what guidance does to replies; writes report.html and evaluation.json."""
    if find_spec(_MODULE) is None:
        raise StackError(
            f"the package `{_MODULE}` is not installed",
            hint="run this from a checkout set up with `make setup`",
        )
    command = [*OWN_PYTHON, _MODULE, "--data", str(data), "--out", str(out)]
    command += ["--models", str(models or default_models_dir()), "--jobs", str(jobs)]
    command += ["--prompts", str(prompts)] if prompts else []
    command += ["--quick"] if quick else []
    raise typer.Exit(run_child(command))
