"""A gRPC service of four handlers written in a test, on a real server with the real boundary."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from svc_common.health import Health
from svc_common.server import bind, new_server
from svc_common.server_options import ServerOptions

NAME = "test.SmallService"
OPTIONS = ServerOptions("TEST_", listen="127.0.0.1:0", metrics_port=0, drain_s=5.0)


def add_handlers(handlers: dict[str, Callable[..., Any]], server: grpc.aio.Server) -> None:
    """Register handlers by arity: `unary`, `server_stream`, `client_stream`, `bidi`."""
    new = {
        "unary": grpc.unary_unary_rpc_method_handler,
        "server_stream": grpc.unary_stream_rpc_method_handler,
        "client_stream": grpc.stream_unary_rpc_method_handler,
        "bidi": grpc.stream_stream_rpc_method_handler,
    }
    methods = {arity: new[arity](handler) for arity, handler in handlers.items()}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(NAME, methods)])


@dataclass
class Running:
    """A started server and a channel to it."""

    server: grpc.aio.Server
    channel: grpc.aio.Channel
    health: Health
    registry: CollectorRegistry
    address: str

    def call(self, arity: str) -> Any:
        new = {
            "unary": self.channel.unary_unary,
            "server_stream": self.channel.unary_stream,
            "client_stream": self.channel.stream_unary,
            "bidi": self.channel.stream_stream,
        }
        return new[arity](f"/{NAME}/{arity}")

    async def count(self, arity: str, code: str) -> float:
        """Return how many calls ended with `code`, once all did; the server is stopped."""
        await self.server.stop(2)  # a caller has its status before the server counts the call
        labels = {"method": f"{NAME}/{arity}", "code": code}
        return self.registry.get_sample_value("pad_rpc_total", labels) or 0.0


@asynccontextmanager
async def running(
    options: ServerOptions = OPTIONS, **handlers: Callable[..., Any]
) -> AsyncIterator[Running]:
    registry = CollectorRegistry()
    health = Health([NAME])
    server = new_server(options, health, registry, [partial(add_handlers, handlers)])
    address = bind(server, options)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield Running(server, channel, health, registry, address)
    finally:
        await server.stop(2)
