"""How to see, from outside, that a child is ready; each probe answers within a second."""

import http.client
import socket
import ssl
from pathlib import Path

import grpc

from pad_client.client import GeneratorClient
from pad_client.errors import PadError
from pad_client.requests import CHANNEL_OPTIONS

_PROBE_S = 1.0
_HEALTH_METHOD = "/grpc.health.v1.Health/Check"
# HealthCheckResponse with its one field, status (number 1), at SERVING (1). The message is spelt
# out because the package with its code belongs to the services, not to the client.
_SERVING = b"\x08\x01"


def answers_ping(socket_path: Path) -> bool:
    """Return whether a Redis-protocol server answers on a unix socket."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PROBE_S)
            connection.connect(str(socket_path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def answers_http(address: str, path: str) -> bool:
    """Return whether an HTTP server answers a GET with 200."""
    connection = http.client.HTTPConnection(address, timeout=_PROBE_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def answers_tls(address: str) -> bool:
    """Return whether a server takes part in a TLS handshake, whatever its certificate says."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])  # else gRPC's servers hang up
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=_PROBE_S) as connection,
            context.wrap_socket(connection),
        ):
            return True
    except OSError:  # by ssl too
        return False


def is_serving(address: str) -> bool:
    """Return whether a gRPC server says of itself that it is SERVING."""
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        check = channel.unary_unary(_HEALTH_METHOD, bytes, bytes)
        try:
            return check(b"", timeout=_PROBE_S) == _SERVING
        except grpc.RpcError:
            return False


def reaches_replicas(address: str, num_replicas: int) -> bool:
    """Return whether a generator has so many reward replicas at hand."""
    with GeneratorClient(address, timeout_s=_PROBE_S) as client:
        try:
            replicas = client.server_info().reward_replicas
        except PadError:
            return False
    return sum(replica.is_available for replica in replicas) >= num_replicas
