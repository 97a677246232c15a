"""The password of the profile store, from a file, so that no environment holds it."""

from pathlib import Path

from redis.credentials import CredentialProvider

from svc_common.settings import SettingsError

_VARIABLE = "GENERATOR_REDIS_PASSWORD_FILE"


class PasswordFile(CredentialProvider):
    """Reads the file for each new connection, so that a password can be changed while we run.

    It holds the password alone, or user and password with a blank between them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return what a connection authenticates with.

        Raises:
            OSError: The file cannot be read, or holds something else.
        """
        match self._path.read_text(encoding="utf-8").split():
            case [password]:
                return (password,)
            case [user, password]:
                return (user, password)
        raise OSError(f"{self._path}: must hold a password, or user and password")


def read_password_file(path: str) -> PasswordFile | None:
    """Return the password file that the setting names; None if it names none.

    Raises:
        SettingsError: It cannot be used.
    """
    if not path:
        return None
    password = PasswordFile(Path(path))
    try:
        password.get_credentials()
    except (OSError, UnicodeDecodeError) as error:
        rule = "must hold a password, or user and password, in UTF-8"
        raise SettingsError(f"{_VARIABLE}={path}: {rule}: {type(error).__name__}") from error
    return password
