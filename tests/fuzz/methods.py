"""Every method that the two servers offer, found by the descriptors of their services."""

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from pad.v1 import generator_pb2, profile_pb2, reward_pb2

COMMON = (health_pb2, reflection_pb2)
FILES = {"generator": (generator_pb2, profile_pb2, *COMMON), "reward-0": (reward_pb2, *COMMON)}


@dataclass(frozen=True)
class Method:
    """An RPC of one of the services."""

    service: str  # name of the process
    path: str
    request: type[Message]
    streams_requests: bool
    streams_responses: bool

    @property
    def name(self) -> str:
        return f"{self.service}{self.path}"


def all_methods() -> list[Method]:
    """Return the methods of both servers."""
    return [
        _method(service, method)
        for service, files in FILES.items()
        for file in files
        for one in file.DESCRIPTOR.services_by_name.values()
        for method in one.methods
    ]


def _method(service: str, descriptor: Any) -> Method:
    path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
    streams = descriptor.client_streaming, descriptor.server_streaming
    return Method(service, path, GetMessageClass(descriptor.input_type), *streams)
