"""Contenders that are real services, asked over gRPC."""

from collections.abc import Callable

from benchmarks.load import Ask
from benchmarks.prompts import make_prompts
from benchmarks.rounds import Cell, Sample
from benchmarks.service_loop import ServiceLoop
from svc_common.lm.tokenizer import Tokenizer

PLAIN = "plain, over gRPC"
TWO_ROWS = ", two rows"  # ends the name of a stack whose reference has a row: measured with `pad`
SEQUENTIAL = "sequential"  # name of a stack that is measured with `pad-released` alone
MAX_TOKENS = 512


def service_contenders(
    services: ServiceLoop, tokenizer: Tokenizer, cell: Cell, num_steps: int
) -> dict[str, Callable[[], Sample]]:
    """Return everything to be measured in a cell, by name; stacks are named by kinds of theta."""
    prompts = make_prompts(tokenizer, [cell.prompt] * cell.batch)

    def steady(stack: str, strategy: str) -> Callable[[], Sample]:
        asks = [Ask(prompt, MAX_TOKENS, strategy) for prompt in prompts]
        return lambda: services.steady(stack, asks, num_steps).sample()

    found: dict[str, Callable[[], Sample]] = {}
    for stack in services.stacks:
        if stack == SEQUENTIAL:
            found["pad-released, sequential"] = steady(stack, "pad-released")
            continue
        if stack.endswith(TWO_ROWS):
            found[f"pad, {stack}"] = steady(stack, "pad")
            continue
        found.setdefault(PLAIN, steady(stack, "base"))
        for strategy in ("pad-released", "pad"):
            found[f"{strategy}, {stack}"] = steady(stack, strategy)
    return found
