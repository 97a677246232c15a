"""The two clients are one: the same members, parameters, defaults and words."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from pad_client import AsyncGeneratorClient, AsyncTokenStream, GeneratorClient, TokenStream

PAIRS = [(GeneratorClient, AsyncGeneratorClient), (TokenStream, AsyncTokenStream)]
# What asyncio calls by another name.
NAMES = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"}
NAMES |= {"__aiter__": "__iter__", "__anext__": "__next__", "StopAsyncIteration": "StopIteration"}
TYPES = {
    "AsyncTokenStream": "TokenStream",
    "AsyncIterator": "Iterator",
    "grpc.aio._base_channel.": "grpc.",
    "pad_client.aio_token_stream.": "pad_client.token_stream.",
}
# Where the two must differ, in docstrings.
WORDS = {
    "for one event loop": "usable from many threads",
    "an open aio channel": "an open channel",
}
# Of the streams: what cancels one is different.
CANCELLATION = re.compile(r"(The RPC is cancelled, ).*", re.DOTALL)


def members(client: type) -> dict[str, Any]:
    """Return what callers use, by the name it has in the client for threads."""
    return {
        NAMES.get(name, name): member
        for name, member in vars(client).items()
        if not name.startswith("_") or name == "__init__" or name in (*NAMES, *NAMES.values())
    }


def plain(text: str) -> str:
    """Return a docstring or signature in the words of the client for threads."""
    for word, other in (NAMES | TYPES | WORDS).items():
        text = text.replace(word, other)
    return " ".join(text.split())


def signature(member: Callable[..., Any]) -> str:
    found = inspect.signature(member)
    parameters = [
        each
        for each in found.parameters.values()
        # The stream's is internal: it gets gRPC's own function.
        if each.name != "start"
    ]
    return plain(str(found.replace(parameters=parameters)))


@pytest.mark.parametrize(("threads", "loop"), PAIRS)
def test_members_are_the_same(threads: type, loop: type) -> None:
    assert set(members(threads)) == set(members(loop))


@pytest.mark.parametrize(
    ("name", "threads", "loop"),
    [
        (f"{threads.__name__}.{name}", member, members(loop)[name])
        for threads, loop in PAIRS
        for name, member in members(threads).items()
    ],
)
def test_a_member_takes_and_says_the_same(name: str, threads: Any, loop: Any) -> None:
    assert plain(inspect.getdoc(threads) or "") == plain(inspect.getdoc(loop) or "")
    if isinstance(threads, property):
        threads, loop = threads.fget, loop.fget
    assert signature(threads) == signature(loop), name


@pytest.mark.parametrize(("threads", "loop"), PAIRS)
def test_classes_say_the_same(threads: type, loop: type) -> None:
    def said(client: type) -> str:
        return plain(CANCELLATION.sub(r"\1", inspect.getdoc(client) or ""))

    assert said(threads) == said(loop) != ""


@pytest.mark.parametrize("client", [GeneratorClient, AsyncGeneratorClient])
def test_every_public_member_says_what_it_does(client: type) -> None:
    public = {name for name in members(client) if not name.startswith("_")}
    assert {name for name in public if not inspect.getdoc(members(client)[name])} == set()


@pytest.mark.parametrize("client", [GeneratorClient, AsyncGeneratorClient])
def test_every_call_may_say_its_own_timeout(client: type) -> None:
    for name, member in members(client).items():
        if name.startswith("_") or name == "close":
            continue
        timeout = inspect.signature(member).parameters["timeout_s"]
        assert timeout.default is None, name  # the client's, which is never without end


def test_what_waits_is_a_coroutine_in_the_client_for_asyncio() -> None:
    lazy = {"generate", "list_profiles"}  # give something to iterate over
    for name, member in members(AsyncGeneratorClient).items():
        if not name.startswith("_"):
            assert inspect.iscoroutinefunction(member) is (name not in lazy), name
