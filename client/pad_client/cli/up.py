"""`pad up`: a whole server on this machine, in the foreground."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from pad_client.cli.console import (
    DEFAULT_SERVER,
    new_console,
    program,
    shown_start,
    sigterm_as_interrupt,
)
from pad_client.embedded import EmbeddedStack, StackOptions, default_models_dir

POLL_S = 0.5
DEFAULT_EDGE_PORT = 8000
DEFAULT_PLAYGROUND_PORT = 8080

ModelsOption = Annotated[
    Path | None,
    typer.Option(
        "--models",
        metavar="DIR",
        help="Folder with demo-base/ and demo-persrm/; default: models/ of the checkout.",
    ),
]
ReplicasOption = Annotated[
    int, typer.Option("--reward-replicas", min=1, help="Reward services to start.")
]
StartTimeoutOption = Annotated[
    float, typer.Option("--start-timeout", min=1, metavar="SECONDS", help="Longest start.")
]


def up(
    models: ModelsOption = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where the generator listens; 0: any free one.")
    ] = int(DEFAULT_SERVER.rpartition(":")[2]),
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Its metrics; default: any free one.")
    ] = None,
    reward_replicas: ReplicasOption = 1,
    edge: Annotated[
        bool, typer.Option("--edge", help="Also run the OpenAI-compatible HTTP edge.")
    ] = False,
    edge_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where the edge listens; 0: any free one.")
    ] = DEFAULT_EDGE_PORT,
    playground: Annotated[
        bool, typer.Option("--playground", help="Also serve a web page to try profiles on.")
    ] = False,
    playground_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where the page is served; 0: any free one.")
    ] = DEFAULT_PLAYGROUND_PORT,
    start_timeout: StartTimeoutOption = 180.0,
) -> None:
    """Run generator, reward service and store on this machine until Ctrl-C."""
    options = StackOptions(
        models_dir=models or default_models_dir(),
        num_reward_replicas=reward_replicas,
        generator_port=port or None,
        generator_metrics_port=metrics_port,
        has_edge=edge,
        edge_port=edge_port or None,
        has_playground=playground,
        playground_port=playground_port or None,
        start_timeout_s=start_timeout,
    )
    try:
        with started(options) as stack:
            print_services(stack)
            if edge:
                _print_edge_example(stack.addresses["edge"])
            if playground:
                print_playground(stack.addresses["playground"])
            _print_example(stack.address)
            while True:
                for loss in stack.check():
                    typer.echo(loss, err=True)
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        typer.echo("\nStopped; nothing is left running.")


@contextmanager
def started(options: StackOptions) -> Iterator[EmbeddedStack]:
    """Yield a running stack, its start shown; Ctrl-C and SIGTERM end it in good order."""
    notes = new_console(stderr=True)
    with sigterm_as_interrupt():
        with shown_start(notes) as on_progress:
            stack = EmbeddedStack(options, on_progress)
            stack.start()
        try:
            yield stack
        finally:
            with notes.status("Stopping"):
                stack.stop()


def print_services(stack: EmbeddedStack) -> None:
    """Print what runs where."""
    table = Table(
        Column("service", no_wrap=True),
        Column("address", overflow="fold"),  # a long TMPDIR makes a long address of the store
        Column("metrics", no_wrap=True),
        Column("pid", no_wrap=True),
    )
    metrics = stack.metrics_addresses
    for name, pid in stack.pids.items():
        table.add_row(name, stack.addresses[name], metrics.get(name, ""), str(pid))
    new_console().print(table)


def print_playground(address: str) -> None:
    """Print where the page is."""
    new_console().print(f"Playground: http://{address}/", soft_wrap=True)


def _print_edge_example(address: str) -> None:
    new_console().print(
        f"OpenAI clients: base_url=http://{address}/v1, any api_key; see docs/openai.md.",
        soft_wrap=True,
    )


def _print_example(address: str) -> None:
    server = "" if address == DEFAULT_SERVER else f" --server {address}"
    pad = program()
    new_console().print(
        "Try, in another terminal:\n"
        f'  {pad} profile put alice --preference "Be brief."{server}\n'
        f'  {pad} generate --user alice --compare "Can you find me a hotel in Paris?"{server}\n'
        "Ctrl-C stops all of it; profiles live in memory and are gone then.",
        soft_wrap=True,
    )
