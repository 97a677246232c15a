"""What the generator answers, and what becomes of it: a real edge before a generator of a test."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import MISSING, fields
from typing import Any

import grpc
import grpc.aio
import openai
import pytest
import pytest_asyncio

from tests.client.fake_server import Failure, FakeServer, add_to_server
from tests.edge_svc.edges import MODEL, SAY, EdgeProcess, running_edge, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPTIONS: dict[str, Any] = {"model": MODEL, "messages": SAY}
CODE = grpc.StatusCode
# Status of the generator; HTTP status, type, code and whether to try again.
STATUSES = {
    CODE.INVALID_ARGUMENT: (400, "invalid_request_error", "invalid_value", False),
    CODE.FAILED_PRECONDITION: (400, "invalid_request_error", "model_mismatch", False),
    CODE.UNAUTHENTICATED: (401, "authentication_error", "invalid_api_key", False),
    CODE.PERMISSION_DENIED: (403, "permission_error", "permission_denied", False),
    CODE.NOT_FOUND: (404, "invalid_request_error", "profile_not_found", False),
    CODE.RESOURCE_EXHAUSTED: (429, "rate_limit_error", "overloaded", True),
    CODE.DATA_LOSS: (500, "server_error", "damaged_profile", False),
    CODE.INTERNAL: (500, "server_error", "internal_error", False),
    CODE.UNKNOWN: (500, "server_error", "internal_error", False),
    CODE.UNAVAILABLE: (503, "server_error", "unavailable", True),
    CODE.DEADLINE_EXCEEDED: (504, "server_error", "timeout", False),
}


# As the generator writes characters of several tokens: nothing, and then the whole one.
SCRIPTS = ("naïve", " ", "", "🙂", "日本", "", "語 \u202e", "e\u0301")
SAY_SCRIPTS: Any = [{"role": "user", "content": "".join(SCRIPTS)}]


class Generator(FakeServer):
    """Says what it serves whatever else fails, so that a test sees how answers fail."""

    def _tokens(self, request: Any) -> Any:
        tokens = super()._tokens(request)
        if request.chat.messages[-1].content == SAY_SCRIPTS[0]["content"]:
            for token, text in zip(tokens, SCRIPTS, strict=True):
                token.text = text
        return tokens

    async def GetServerInfo(self, request: Any, context: Any) -> Any:
        failure, self.failure = self.failure, None
        try:
            return await super().GetServerInfo(request, context)
        finally:
            self.failure = failure


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[tuple[Generator, EdgeProcess]]:
    generator, server = Generator(), grpc.aio.server()
    add_to_server(generator, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    with running_edge(f"127.0.0.1:{port}") as edge:
        yield generator, edge
    await server.stop(None)


@pytest.fixture
def edge(served: tuple[Generator, EdgeProcess]) -> EdgeProcess:
    return served[1]


@pytest.fixture
def fake(served: tuple[Generator, EdgeProcess]) -> Generator:
    """The generator, as if it had just started."""
    generator = served[0]
    for each in fields(FakeServer):
        fresh = each.default_factory() if each.default is MISSING else each.default  # type: ignore[misc]
        setattr(generator, each.name, fresh)
    return generator


def connect(edge: EdgeProcess, api_key: str = "any") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=edge.url, api_key=api_key, max_retries=0, timeout=30)


async def test_each_status_is_the_one_of_the_openai_api(edge: EdgeProcess, fake: Generator) -> None:
    async with connect(edge) as client:
        await client.chat.completions.create(**OPTIONS)
        for code, (status, kind, name, is_retryable) in STATUSES.items():
            pushback = "2500" if code is CODE.RESOURCE_EXHAUSTED else None
            fake.failure = Failure(code, "beta: must be 0..10, got 11", pushback)
            for stream in (False, True):
                with pytest.raises(openai.APIStatusError) as caught:
                    await client.chat.completions.create(**OPTIONS, stream=stream)
                error, headers = caught.value, caught.value.response.headers
                assert (error.status_code, error.type, error.code) == (status, kind, name)
                assert headers["x-should-retry"] == str(is_retryable).lower()
                assert ("retry-after" in headers) is is_retryable
                assert headers["content-type"] == "application/json"
        fake.failure = Failure(CODE.RESOURCE_EXHAUSTED, "full", "2500")
        with pytest.raises(openai.RateLimitError) as full:
            await client.chat.completions.create(**OPTIONS)
        assert full.value.response.headers["retry-after"] == "3"
        assert full.value.response.headers["retry-after-ms"] == "2500"


async def test_a_client_that_retries_gets_its_answer(edge: EdgeProcess, fake: Generator) -> None:
    fake.failure = Failure(CODE.UNAVAILABLE, "stopping", "1")
    retries = connect(edge).with_options(max_retries=5)
    async with retries as client:
        asked = asyncio.create_task(client.chat.completions.create(**OPTIONS))
        fake.failure = None
        answer = await asked
    assert answer.choices[0].message.content == "What kind of food do you like?"


async def test_token_and_request_id_reach_the_generator(edge: EdgeProcess, fake: Generator) -> None:
    async with connect(edge, api_key="pad_secret") as client:
        raw = await client.chat.completions.with_raw_response.create(
            **OPTIONS, extra_headers={"x-request-id": "caller-7"}
        )
        assert raw.headers["x-request-id"] == "caller-7"
        for headers in ({"authorization": "Basic abc"}, {"authorization": openai.omit}):
            await client.chat.completions.create(
                **OPTIONS, extra_headers={**headers, "x-request-id": "not sane!"}
            )
    first, *others = fake.metadata
    assert first["authorization"] == "Bearer pad_secret"
    assert first["x-request-id"] == "caller-7"
    for metadata in others:
        assert "authorization" not in metadata
        assert len(metadata["x-request-id"]) == 32


async def test_characters_of_all_scripts_arrive_whole_in_a_stream(
    edge: EdgeProcess, fake: Generator
) -> None:
    async with connect(edge) as client:
        options: dict[str, Any] = {"model": MODEL, "messages": SAY_SCRIPTS}
        whole = await client.chat.completions.create(**options)
        stream = await client.chat.completions.create(**options, stream=True)
        pieces = [chunk.choices[0].delta.content async for chunk in stream]
    assert whole.choices[0].message.content == "".join(SCRIPTS)
    assert [piece for piece in pieces if piece] == [text for text in SCRIPTS if text]
    assert fake.requests[-1].chat.messages[-1].content == "".join(SCRIPTS)


async def test_the_callers_time_is_the_generators(edge: EdgeProcess, fake: Generator) -> None:
    async with connect(edge) as client:
        extra = {"pad": {"timeout_s": 9}}
        await client.chat.completions.create(**OPTIONS, extra_body=extra)
    assert 5 < fake.time_remaining_s[-1] < 9.5


@pytest.mark.parametrize("code", [CODE.UNAVAILABLE, CODE.INTERNAL])
async def test_a_stream_that_breaks_says_why(
    edge: EdgeProcess, fake: Generator, code: grpc.StatusCode
) -> None:
    fake.failure, fake.failure_after = Failure(code, "lost"), 2
    async with connect(edge) as client:
        text = ""
        with pytest.raises(openai.APIError) as caught:  # noqa: PT012 - the stream is what raises
            async for chunk in await client.chat.completions.create(**OPTIONS, stream=True):
                text += chunk.choices[0].delta.content or ""
    assert text == "What kind"
    assert caught.value.code == STATUSES[code][2]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_hang_up_cancels_what_the_generator_does(
    edge: EdgeProcess, fake: Generator, n: int, stream: bool
) -> None:
    fake.hang_after = 1
    async with connect(edge) as client:
        asked = asyncio.create_task(client.chat.completions.create(**OPTIONS, n=n, stream=stream))
        if stream:
            await (await asked).close()
        else:
            await asyncio.to_thread(until, lambda: len(fake.requests) == n)
            asked.cancel()
        async with asyncio.timeout(30):
            await fake.cancelled.wait()
