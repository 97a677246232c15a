"""What all tests of the generator's parts share."""

from collections.abc import Callable

import pytest
import torch

from tests.conftest import RedisServer
from tests.redis_cluster import Cluster, new_cluster


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Tiny tensors on several threads take many times as long, mostly waiting."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_cluster(new_redis_server: Callable[..., RedisServer]) -> Cluster:
    """The cluster of all tests that do it no harm; use `cluster` to find it empty."""
    return new_cluster(new_redis_server)


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    shared_cluster.flush()
    return shared_cluster


@pytest.fixture(params=["server", "cluster"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The store, empty: first one server, then a cluster."""
    if request.param == "cluster":
        shared: Cluster = request.getfixturevalue("cluster")
        return shared.url
    url: str = request.getfixturevalue("redis_url")
    return url
