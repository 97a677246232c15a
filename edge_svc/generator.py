"""The generator behind the edge: one channel, a caller's own metadata, and what is served."""

import asyncio
import ipaddress
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import grpc
import grpc.aio

from edge_svc.settings import PREFIX, EdgeSettings
from pad_client import AsyncGeneratorClient, InvalidRequestError, ServerInfo
from pad_client.addresses import grpc_target
from pad_client.requests import CHANNEL_OPTIONS
from svc_common.settings import SettingsError
from svc_common.tls import TlsFiles, client_credentials
from svc_common.trace_context import TraceContext

logger = logging.getLogger(__name__)

_HEALTH_METHOD = "/grpc.health.v1.Health/Check"
# HealthCheckResponse with its one field, status (number 1), at SERVING (1): spelt out, so that the
# edge needs no more of gRPC than the client does.
_SERVING = b"\x08\x01"
_PROBE_S = 2.0
_INFO_TTL_S = 5.0
_BEARER = re.compile(r"(?i:bearer) +[\x21-\x7e]+")


@dataclass(frozen=True)
class Caller:
    """Who calls, as the generator is told: a request id, and token and trace if there are some."""

    request_id: str
    authorization: str = ""
    trace: TraceContext | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What is sent with each call."""
        token = (("authorization", self.authorization),) if self.authorization else ()
        trace = () if self.trace is None else self.trace.metadata
        return (("x-request-id", self.request_id), *token, *trace)


def read_authorization(header: str | None) -> str:
    """Return a bearer token's header as it can be passed on; empty where there is none.

    The generator judges the token; another scheme, such as Basic, is not for it.
    """
    if header is None or not _BEARER.fullmatch(header):
        return ""
    return f"Bearer {header.split()[1]}"


class Line:
    """The channel to the generator, and another once the keys for it changed.

    What runs on the old one runs on: it is closed when no answer can take any longer.
    """

    def __init__(
        self,
        open_channel: Callable[[grpc.ChannelCredentials | None], grpc.aio.Channel],
        credentials: Callable[[], grpc.ChannelCredentials] | None,
        longest_call_s: float,
    ) -> None:
        self._open = open_channel
        self._credentials = credentials
        self._longest_call_s = longest_call_s
        self._used = credentials() if credentials is not None else None
        self._channel = open_channel(self._used)
        self._closing: dict[asyncio.Task[None], grpc.aio.Channel] = {}

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel for a new call."""
        newest = self._credentials() if self._credentials is not None else None
        if newest is not self._used:
            task = asyncio.ensure_future(_close_later(self._channel, self._longest_call_s))
            self._closing[task] = self._channel
            task.add_done_callback(self._closing.pop)
            self._used, self._channel = newest, self._open(newest)
            logger.info("new connection to the generator, with changed keys")
        return self._channel

    async def close(self) -> None:
        """Close all channels now."""
        closing = dict(self._closing)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        for channel in (*closing.values(), self._channel):
            await channel.close()


async def _close_later(channel: grpc.aio.Channel, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await channel.close()


class Generator:
    """Calls the generator in the name of each caller."""

    def __init__(self, line: Line, *, passes_tokens: bool) -> None:
        self._line = line
        self._passes_tokens = passes_tokens
        self._info: ServerInfo | None = None
        self._info_until = 0.0

    def client_for(self, caller: Caller) -> AsyncGeneratorClient:
        """Return a client that calls in the caller's name; the channel is shared."""
        told = caller if self._passes_tokens else replace(caller, authorization="")
        # Decided above whether a token may go: a channel does not say where it leads.
        return AsyncGeneratorClient(
            self._line.channel, metadata=told.metadata, allow_plaintext_token=True
        )

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
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._line.channel.unary_unary(
            _HEALTH_METHOD
        )
        try:
            return bool(await check(b"", timeout=_PROBE_S) == _SERVING)
        except grpc.RpcError:
            return False


@asynccontextmanager
async def open_line(settings: EdgeSettings) -> AsyncIterator[Line]:
    """Yield the way to the generator, with TLS where the settings name keys.

    Raises:
        SettingsError: A file is missing or cannot be used, or the address is none.
    """
    options: list[tuple[str, int | str]] = list(CHANNEL_OPTIONS)
    files = TlsFiles(
        f"{PREFIX}GENERATOR_",
        cert=settings.generator_cert_file,
        key=settings.generator_key_file,
        ca=settings.generator_ca_file,
    )
    try:
        target = grpc_target(settings.generator)
    except InvalidRequestError as error:
        raise SettingsError(f"{PREFIX}GENERATOR: {error}") from error
    if files.ca and settings.generator_server_name:
        options.append(("grpc.ssl_target_name_override", settings.generator_server_name))
    # Else a new channel would take over the connection that was made with the old keys.
    options.append(("grpc.use_local_subchannel_pool", 1))

    def open_channel(credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(target, options=options)
        return grpc.aio.secure_channel(target, credentials, options=options)

    # An answer is asked for twice where the user turns out to have no profile.
    longest_call_s = 2 * settings.request_timeout_s
    line = Line(open_channel, client_credentials(files), longest_call_s)
    try:
        yield line
    finally:
        await line.close()


def passes_tokens(settings: EdgeSettings) -> bool:
    """Return whether callers' tokens may travel to the generator."""
    is_encrypted = bool(settings.generator_ca_file)
    is_local = all(_is_loopback(address) for address in settings.generator)
    return is_encrypted or is_local or settings.passes_plaintext_tokens


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return (
            address.startswith("unix:")
            or host == "localhost"
            or ipaddress.ip_address(host).is_loopback
        )
    except ValueError:
        return False  # a name, wherever it leads
