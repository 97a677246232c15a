import asyncio
import socket

from prometheus_client import CollectorRegistry

from svc_common.health import Health
from svc_common.healthcheck import main
from svc_common.server import bind, new_server
from tests.svc_common.small_service import OPTIONS


async def probe(*arguments):
    return await asyncio.to_thread(main, arguments)


async def test_exit_status_follows_the_health_of_the_server(capsys):
    health = Health([])
    server = new_server(OPTIONS, health, CollectorRegistry(), [])
    address = bind(server, OPTIONS)
    await server.start()
    try:
        assert await probe(address) == 1
        assert capsys.readouterr().err == f"{address}: NOT_SERVING\n"
        health.set_serving(True)
        assert await probe(address) == 0
        health.drain()
        assert await probe(address) == 1
    finally:
        await server.stop(None)


async def test_server_that_is_not_there_is_unhealthy(capsys):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        assert await probe(f"127.0.0.1:{taken.getsockname()[1]}") == 1
    assert "UNAVAILABLE" in capsys.readouterr().err


async def test_server_that_never_answers_is_unhealthy(monkeypatch, capsys):
    monkeypatch.setattr("svc_common.healthcheck.TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert await probe(f"127.0.0.1:{silent.getsockname()[1]}") == 1
    assert "DEADLINE_EXCEEDED" in capsys.readouterr().err


async def test_wrong_use_is_neither_healthy_nor_unhealthy(capsys):
    assert await probe() == 2
    assert "usage" in capsys.readouterr().err
