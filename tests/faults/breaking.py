"""Carries out one fault on a running stack."""

import asyncio
import signal
from pathlib import Path

from tests.faults.orders import give_order
from tests.faults.proxy import Network, Proxy
from tests.faults.scenario import Fault
from tests.faults.stack import FaultStack

DELAY_S = 0.05
NETWORKS = {
    "delay": Network(delay_s=DELAY_S),
    "silence": Network(is_silent=True),
    "refuse": Network(is_refusing=True),
    "throttle": Network(bytes_per_s=20_000),
    "slice": Network(slice_bytes=3),
}


async def break_it(stack: FaultStack, fault: Fault) -> None:
    """Do the damage, and undo it when its time is over."""
    if fault.place == "network":
        await _break_network(stack.proxies[fault.index], fault)
    elif fault.is_loss_of_store:
        await stack.lose_store(fault.lasts_s, is_empty=fault.kind == "lose")
    elif fault.place == "redis":
        await _break_network(stack.redis_proxy, fault)
    elif fault.place == "process":
        await _break_process(stack, fault)
    elif fault.place == "answers":
        await arm(stack.replicas[fault.index].faults, fault)
    else:
        await arm(stack.generator_faults, fault)


async def arm(socket_path: Path, fault: Fault) -> None:
    """Have a process break its own messages; one that is gone or stopped cannot be asked."""
    order = {
        "point": fault.place,
        "kind": fault.kind,
        "times": fault.times,
        "lasts_s": fault.lasts_s,
        "seconds": DELAY_S,
        "detail": fault.detail,
    }
    await give_order(socket_path, order)


async def _break_network(proxy: Proxy, fault: Fault) -> None:
    if fault.kind == "cut":
        await proxy.cut()
        return
    proxy.set_network(NETWORKS[fault.kind])
    if fault.kind == "refuse":
        await proxy.cut()
    await asyncio.sleep(fault.lasts_s)
    proxy.set_network(Network())


async def _break_process(stack: FaultStack, fault: Fault) -> None:
    process = stack.replicas[fault.index]
    if fault.kind == "stop":
        process.child.signal(signal.SIGSTOP)
        await asyncio.sleep(fault.lasts_s)
        process.child.signal(signal.SIGCONT)
    elif fault.kind == "kill":
        process.child.signal(signal.SIGKILL)
        await stack.replace(fault.index)
    elif fault.kind == "term":
        process.child.signal(signal.SIGTERM)
        await asyncio.to_thread(process.child.wait, 10.0)
        await stack.replace(fault.index)
    else:
        process.child.signal(signal.SIGKILL)
        await stack.replace(fault.index, version="b")
