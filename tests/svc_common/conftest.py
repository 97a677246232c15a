"""What several tests of servers share."""

import asyncio
import logging

import pytest

from tests.tls_keys import Authority


class EventLog(logging.Handler):
    """Completes a future with the first record of an event."""

    def __init__(self):
        super().__init__()
        self._awaited = {}

    def event(self, name):
        return self._awaited.setdefault(name, asyncio.get_running_loop().create_future())

    def emit(self, record):
        if not self.event(record.getMessage()).done():
            self.event(record.getMessage()).set_result(record)


@pytest.fixture
def event_log():
    handler = EventLog()
    logger = logging.getLogger("svc_common.server")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ca")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody should trust."""
    return Authority(tmp_path_factory.mktemp("stranger"), "other-ca")
