"""A fault point breaks as many messages as it is told to, and none otherwise."""

import asyncio
import contextlib
import json
from pathlib import Path

import pytest

from svc_common.fault_points import Fault, FaultPoints, InjectedError


async def passed(points: FaultPoints, message: str, point: str = "here") -> list[str]:
    def garble(text: str, detail: str) -> str | None:
        return f"{detail}!" if text else None

    return [came async for came in points.spoil(point, message, garble)]


async def drain(points: FaultPoints, came: list[str]) -> None:
    async for message in points.spoil("here", "a"):
        came.append(message)  # noqa: PERF401 - what came before the error counts


async def test_faults_happen_as_often_as_they_were_armed_for_in_order() -> None:
    points = FaultPoints()
    points.arm(Fault("here", "drop", times=2))
    points.arm(Fault("here", "duplicate", times=1))
    points.arm(Fault("there", "drop", times=1))
    assert points.is_armed
    assert [await passed(points, text) for text in "abcd"] == [[], [], ["c", "c"], ["d"]]
    assert await passed(points, "e", "there") == []
    assert await passed(points, "f", "there") == ["f"]
    assert not points.is_armed


async def test_what_cannot_be_garbled_passes_and_does_not_count() -> None:
    points = FaultPoints()
    points.arm(Fault("here", "garble", times=1, detail="nan"))
    assert [await passed(points, text) for text in ("", "a", "b")] == [[""], ["nan!"], ["b"]]


async def test_an_error_comes_instead_of_a_message_or_behind_it() -> None:
    points = FaultPoints()
    points.arm(Fault("here", "error-before", times=1))
    points.arm(Fault("here", "error-after", times=1))
    came: list[str] = []
    for _ in range(2):
        with pytest.raises(InjectedError):
            await drain(points, came)
    assert came == ["a"]


async def test_orders_come_through_a_socket_and_wrong_ones_break_nothing_else(
    tmp_path: Path,
) -> None:
    points, path = FaultPoints(), tmp_path / "orders"
    await points.listen("")  # off
    listening = asyncio.create_task(points.listen(str(path)))
    async with asyncio.timeout(10):
        while not path.exists():  # noqa: ASYNC110 - a server tells nobody that it listens
            await asyncio.sleep(0)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(json.dumps({"point": "here", "kind": "drop", "times": 1}).encode() + b"\n")
        assert await reader.readline() == b"ok\n"
        assert points.is_armed
        writer.write(b"{}\n")
        assert await reader.readline() == b"ok\n"
        writer.close()
    assert not points.is_armed
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"kind": "explode", "times": 1}, "kind: must be one of"),
        ({"kind": "drop"}, "times, lasts_s: one must be set"),
    ],
)
def test_a_wrong_order_is_refused(order: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fault(point="here", **order)  # type: ignore[arg-type]
