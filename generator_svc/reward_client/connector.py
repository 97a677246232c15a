"""How a reward replica is reached: in the clear or by TLS, with a token or without."""

from collections.abc import Callable
from typing import TypeAlias

import grpc

from svc_common.settings import SettingsError
from svc_common.watched_files import WatchedFiles, read_secret_file

CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

Metadata: TypeAlias = tuple[tuple[str, str], ...]


class RewardToken:
    """The one token of a file, read anew when it changes."""

    def __init__(self, setting: str, path: str) -> None:
        """Read the file.

        Raises:
            SettingsError: It cannot be read or holds something else.
        """
        self._token = WatchedFiles([path], lambda: _read_token(setting, path))

    @property
    def metadata(self) -> Metadata:
        """What a call carries."""
        return (("authorization", f"Bearer {self._token.current}"),)


class Connector:
    """Opens channels to reward replicas with the keys that the files hold then.

    Args:
        keys: Makes the keys of a new channel; None for plain text.
        server_name: In the replicas' certificates; empty: the address of each.
        token: Goes along with each call; None for none.
    """

    def __init__(
        self,
        keys: Callable[[], grpc.ChannelCredentials] | None = None,
        server_name: str = "",
        token: RewardToken | None = None,
    ) -> None:
        self._keys = keys
        self._server_name = server_name
        self._token = token

    def open(self, address: str) -> grpc.aio.Channel:
        """Return a new channel to a replica."""
        if self._keys is None:
            return grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
        name = self._server_name
        named = (("grpc.ssl_target_name_override", name),) if name else ()
        return grpc.aio.secure_channel(address, self._keys(), (*CHANNEL_OPTIONS, *named))

    @property
    def metadata(self) -> Metadata:
        """What each call to a replica carries."""
        return self._token.metadata if self._token is not None else ()


def _read_token(setting: str, path: str) -> str:
    """Return the token in a file.

    Raises:
        SettingsError: There is none, or more than one.
    """
    try:
        words = read_secret_file(setting, path).decode("ascii").split()
    except UnicodeDecodeError:
        words = []
    if len(words) != 1 or not words[0].isprintable():
        raise SettingsError(f"{setting}: must hold one token and nothing else, got {path}")
    return words[0]
