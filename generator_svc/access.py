"""Who may call the generator, and under which keys it listens and reaches its rewards."""

import grpc

from generator_svc.reward_client.connector import Connector, RewardToken
from generator_svc.settings import PREFIX, GeneratorSettings
from svc_common.access import MethodScopes, access, anyone, is_loopback, warn_if_exposed
from svc_common.callers import Identify, Scope
from svc_common.settings import SettingsError
from svc_common.tls import TlsFiles, client_credentials, server_credentials, server_files
from svc_common.tokens import NAME_RULE, TokenFile, is_name

METHOD_SCOPES: MethodScopes = {
    "pad.v1.GeneratorService/Complete": Scope.GENERATE,
    "pad.v1.GeneratorService/ExplainPersonalization": Scope.GENERATE,  # see check_may_explain
    "pad.v1.GeneratorService/Generate": Scope.GENERATE,
    "pad.v1.GeneratorService/GetServerInfo": Scope.GENERATE,
    "pad.v1.ProfileService/DeleteProfile": Scope.PROFILES_WRITE,
    "pad.v1.ProfileService/GetProfile": Scope.PROFILES_READ,
    "pad.v1.ProfileService/ListProfiles": Scope.PROFILES_READ,
    "pad.v1.ProfileService/ListProfileRevisions": Scope.PROFILES_READ,
    "pad.v1.ProfileService/PutProfile": Scope.PROFILES_WRITE,
    "pad.v1.ProfileService/RestoreProfile": Scope.PROFILES_WRITE,
}


def check_access(settings: GeneratorSettings) -> None:
    """Tell of all that cannot be used before models are loaded.

    Raises:
        SettingsError: Keys, tokens or the tenant's name cannot be used.
    """
    identify(settings)
    credentials(settings)
    reward_connector(settings)


def warn_of_strangers(settings: GeneratorSettings) -> None:
    """Log what those can do who reach the address and are no callers of ours."""
    warn_if_exposed(
        settings.listen,
        asks_who_calls=bool(settings.tokens_file),
        is_encrypted=bool(settings.tls_cert_file),
    )


def identify(settings: GeneratorSettings) -> Identify:
    """Return what finds out who calls: by tokens if there are any, else all are one tenant.

    Raises:
        SettingsError: The tokens or the tenant's name cannot be used.
    """
    if not is_name(settings.tenant):
        raise SettingsError(f"{PREFIX}TENANT: must be {NAME_RULE}, got {settings.tenant!r}")
    if settings.tokens_file and settings.tenant != GeneratorSettings.tenant:
        raise SettingsError(
            f"{PREFIX}TENANT: must not be set where {PREFIX}TOKENS_FILE is, whose tokens name"
            f" their tenants; got {settings.tenant}"
        )
    if not settings.tokens_file:
        return access(METHOD_SCOPES, anyone(settings.tenant))
    tokens = TokenFile(f"{PREFIX}TOKENS_FILE", settings.tokens_file)
    return access(METHOD_SCOPES, tokens.caller)


def credentials(settings: GeneratorSettings) -> grpc.ServerCredentials | None:
    """Return the server's keys, or none for plain text.

    Raises:
        SettingsError: They cannot be used.
    """
    return server_credentials(server_files(PREFIX, settings))


def reward_connector(settings: GeneratorSettings) -> Connector:
    """Return what opens channels to reward replicas.

    Raises:
        SettingsError: Keys or token cannot be used, or the token would travel in the clear.
    """
    files = TlsFiles(
        f"{PREFIX}REWARD_",
        settings.reward_cert_file,
        settings.reward_key_file,
        settings.reward_ca_file,
    )
    keys = client_credentials(files)
    if settings.reward_server_name and keys is None:
        raise SettingsError(
            f"{PREFIX}REWARD_CA_FILE: must be set where {PREFIX}REWARD_SERVER_NAME is"
        )
    token = None
    if settings.reward_token_file:
        token = RewardToken(f"{PREFIX}REWARD_TOKEN_FILE", settings.reward_token_file)
        distant = [target for target in settings.reward_targets if not is_loopback(target)]
        if keys is None and distant:
            raise SettingsError(
                f"{PREFIX}REWARD_CA_FILE: must be set where {PREFIX}REWARD_TOKEN_FILE is, for the"
                f" token not to be sent in the clear to {distant[0]}"
            )
    return Connector(keys, settings.reward_server_name, token)
