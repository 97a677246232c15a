"""Who may call the reward service, and under which keys it listens."""

import grpc

from reward_svc.settings import PREFIX, RewardSettings
from svc_common.access import MethodScopes, access, anyone, certified, warn_if_exposed
from svc_common.callers import Identify, Scope
from svc_common.settings import SettingsError
from svc_common.tls import server_credentials, server_files
from svc_common.tokens import TokenFile

METHOD_SCOPES: MethodScopes = {
    "pad.v1.RewardService/EncodePreference": Scope.SCORE,
    "pad.v1.RewardService/Forget": Scope.SCORE,
    "pad.v1.RewardService/GetServerInfo": Scope.SCORE,
    "pad.v1.RewardService/Score": Scope.SCORE,
    "pad.v1.RewardService/ScoreSequences": Scope.SCORE,
}


def check_access(settings: RewardSettings) -> None:
    """Tell of all that cannot be used before models are loaded.

    Raises:
        SettingsError: Keys or tokens cannot be used.
    """
    identify(settings)
    credentials(settings)


def warn_of_strangers(settings: RewardSettings) -> None:
    """Log what those can do who reach the address and are no callers of ours."""
    warn_if_exposed(
        settings.listen,
        asks_who_calls=bool(settings.tokens_file or settings.tls_client_ca_file),
        is_encrypted=bool(settings.tls_cert_file),
    )


def identify(settings: RewardSettings) -> Identify:
    """Return what lets generators through: by certificate, by token, by both, or everyone.

    Raises:
        SettingsError: The tokens cannot be used, or certificates are not asked for.
    """
    if settings.allowed_clients and not settings.tls_client_ca_file:
        raise SettingsError(
            f"{PREFIX}TLS_CLIENT_CA_FILE: must be set where {PREFIX}ALLOWED_CLIENTS is"
        )
    authenticate = anyone("default")
    if settings.tokens_file:
        authenticate = TokenFile(f"{PREFIX}TOKENS_FILE", settings.tokens_file).caller
    if settings.allowed_clients:
        authenticate = certified(settings.allowed_clients, authenticate)
    return access(METHOD_SCOPES, authenticate)


def credentials(settings: RewardSettings) -> grpc.ServerCredentials | None:
    """Return the server's keys, or none for plain text.

    Raises:
        SettingsError: They cannot be used.
    """
    return server_credentials(server_files(PREFIX, settings))
