"""Replicas that give other rewards than before: of another model, or garbage; on tiny models."""

import asyncio

import grpc

from generator_svc.reward_client.breaker import MAX_FAILURES
from tests.faults.breaking import arm
from tests.faults.checker import Checker
from tests.faults.history import Progress, observe
from tests.faults.losses import ask, write
from tests.faults.proxy import Network
from tests.faults.recompute import Recompute
from tests.faults.scenario import Fault
from tests.faults.stack import FaultStack, until

STEP_S = 0.02
MAX_ROUNDS = 20


async def outlive_a_model(stack: FaultStack, recompute: Recompute) -> str:
    """Replace one replica after the other by another version under a running answer.

    While one replica of the first version is left the answer stays with it. Then it goes on with
    the other one, and the summary says from which token on.
    """
    progress = Progress()
    one = ask(3, max_tokens=300)
    for proxy in stack.proxies:
        proxy.set_network(Network(delay_s=STEP_S))  # it must not end before both were replaced
    writing = asyncio.create_task(observe(stack.stub, one, progress))
    await progress.reach(10)
    for index in (0, 1):
        await stack.replace(index, "b")
    history = await writing
    await stack.heal()
    assert history.status is grpc.StatusCode.OK, history.details
    checker = Checker(recompute, stack.versions)
    assert checker.broken_twins([history]) == []
    (summary,) = history.summaries
    versions = [use.version for use in summary.reward_models]
    assert versions == [stack.versions["a"], stack.versions["b"]], "it ended before it had to move"
    assert summary.reward_model_version == stack.versions["b"]
    return (
        f"{len(history.tokens)} tokens, from {summary.reward_models[1].first_index} on by the other"
    )


async def suspend(stack: FaultStack) -> str:
    """Have a replica answer garbage, and then be sound again."""
    asks = [ask(i, max_tokens=40) for i in range(8)]
    twins = await write(stack, asks, Progress())
    opened = 'pad_reward_circuit_total{state="open"}'
    before = await stack.metric(opened)
    garbage = Fault(0.0, "answers", 0, "garble", times=MAX_FAILURES, detail="nan")
    await arm(stack.replicas[0].faults, garbage)
    num_rounds = 0
    while await stack.metric(opened) == before:
        num_rounds += 1
        assert num_rounds <= MAX_ROUNDS, "its garbage was never enough"
        histories = await write(stack, asks, Progress())
        for history, twin in zip(histories, twins, strict=True):
            assert history.status is grpc.StatusCode.OK, history.details
            assert history.token_ids == twin.token_ids

    async def is_well_again() -> bool:
        await write(stack, asks[:4], Progress())
        info = await stack.server_info()
        return info is not None and not any(r.is_suspended for r in info.reward_replicas)

    await until(is_well_again, "the replica gets sessions again")
    await stack.heal()
    return f"suspended after {num_rounds} rounds of 8 answers, all identical; well again"
