"""What the tests of TLS, tokens and scopes share."""

import pytest

from tests.tls_keys import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ca")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody should trust."""
    return Authority(tmp_path_factory.mktemp("stranger"), "other-ca")
