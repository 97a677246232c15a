"""The generator behind the edge: one channel, a caller's own metadata, and what is served."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from edge_svc.settings import PREFIX, EdgeSettings
from pad_client import AsyncGeneratorClient, ServerInfo
from pad_client.requests import CHANNEL_OPTIONS
from svc_common.settings import SettingsError

_HEALTH_METHOD = "/grpc.health.v1.Health/Check"
# HealthCheckResponse with its one field, status (number 1), at SERVING (1): spelt out, so that the
# edge needs no more of gRPC than the client does.
_SERVING = b"\x08\x01"
_PROBE_S = 2.0
_INFO_TTL_S = 5.0
_BEARER = re.compile(r"(?i:bearer) +[\x21-\x7e]+")


@dataclass(frozen=True)
class Caller:
    """Who calls, as the generator is told: a request id, and the token if there is one."""

    request_id: str
    authorization: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What is sent with each call."""
        token = (("authorization", self.authorization),) if self.authorization else ()
        return (("x-request-id", self.request_id), *token)


def read_authorization(header: str | None) -> str:
    """Return a bearer token's header as it can be passed on; empty where there is none.

    The generator judges the token; another scheme, such as Basic, is not for it.
    """
    if header is None or not _BEARER.fullmatch(header):
        return ""
    return f"Bearer {header.split()[1]}"


class Generator:
    """Calls the generator in the name of each caller."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            _HEALTH_METHOD
        )
        self._info: ServerInfo | None = None
        self._info_until = 0.0

    def client_for(self, caller: Caller) -> AsyncGeneratorClient:
        """Return a client that calls in the caller's name; the channel is shared."""
        return AsyncGeneratorClient(self._channel, metadata=caller.metadata)

    async def info_for(self, caller: Caller) -> ServerInfo:
        """Return what is served, asked in the caller's name.

        Raises:
            PadError: The generator does not answer, or not this caller.
        """
        self._info = await self.client_for(caller).server_info(timeout_s=_PROBE_S)
        self._info_until = time.monotonic() + _INFO_TTL_S
        return self._info

    async def recent_info(self, caller: Caller) -> ServerInfo:
        """Return what is served, as known for some seconds; a new model comes by a restart."""
        if self._info is not None and time.monotonic() < self._info_until:
            return self._info
        return await self.info_for(caller)

    async def is_serving(self) -> bool:
        """Return whether the generator says of itself that it is SERVING."""
        try:
            return bool(await self._check(b"", timeout=_PROBE_S) == _SERVING)
        except grpc.RpcError:
            return False


def open_channel(settings: EdgeSettings) -> grpc.aio.Channel:
    """Return a channel to the generator, with TLS where the settings name keys.

    Raises:
        SettingsError: A file is missing, or cannot be read.
    """
    options: list[tuple[str, int | str]] = [
        *CHANNEL_OPTIONS,
        # A generator that is back after a restart is called at once, not after minutes.
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
    keys = {
        name: _read(f"generator_{name}", getattr(settings, f"generator_{name}"))
        for name in ("ca_file", "cert_file", "key_file")
    }
    if (keys["cert_file"] is None) != (keys["key_file"] is None):
        raise SettingsError(f"{PREFIX}GENERATOR_CERT_FILE, _KEY_FILE: both or none must be set")
    if keys["ca_file"] is None:
        if keys["cert_file"] is not None:
            raise SettingsError(f"{PREFIX}GENERATOR_CA_FILE: must be set with a certificate")
        return grpc.aio.insecure_channel(settings.generator, options=options)
    credentials = grpc.ssl_channel_credentials(keys["ca_file"], keys["key_file"], keys["cert_file"])
    return grpc.aio.secure_channel(settings.generator, credentials, options=options)


def _read(name: str, path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        rule = f"must be a readable file, got {path}: {error.strerror}"
        raise SettingsError(f"{PREFIX}{name.upper()}: {rule}") from error
