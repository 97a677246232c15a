"""What a person sees when something goes wrong, by generators that do as told."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from pad.v1 import generator_pb2
from tests.client.fake_server import Failure, FakeServer
from tests.playground_svc.browser import Page
from tests.playground_svc.playgrounds import FakeGenerator, running_playground

HOSTILE = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>"


class HostileServer(FakeServer):
    """Writes markup, and says that the base model would have written some too."""

    def _tokens(self, request: generator_pb2.GenerateRequest) -> list[generator_pb2.Token]:
        tokens = super()._tokens(request)
        for token in tokens:
            token.text = token.base_text = token.candidates[0].text = HOSTILE
        return tokens


@pytest.fixture
def failing(page: Page, fakes: dict[str, Any]) -> Iterator[Page]:
    """The page before a generator that works until told otherwise."""
    fakes["server"].failure = None
    page.open(fakes["address"])
    yield page
    # A refusal stands in the console, too; nothing else may.
    assert [each for each in page.complaints() if each["source"] != "network"] == []


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (
            Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue: full", "3000"),
            ["The generator is busy", "queue: full", "It asks to wait 3 s."],
        ),
        (
            Failure(grpc.StatusCode.INVALID_ARGUMENT, "beta: must be 0..10, got 11"),
            ["cannot accept this request", "beta: must be 0..10, got 11", "Request r-1"],
        ),
        (
            Failure(grpc.StatusCode.UNAVAILABLE, "reward: no replica", "-1"),
            ["cannot answer right now", "reward: no replica"],
        ),
    ],
    ids=["busy", "invalid", "unavailable"],
)
def test_a_refusal_says_what_it_is_and_can_be_tried_again(
    failing: Page, fakes: dict[str, Any], failure: Failure, words: list[str]
) -> None:
    fakes["server"].failure, fakes["server"].failure_after = failure, 0
    failing.button("Generate").click()
    failing.until(lambda: failing.status("a") == failing.status("base") == "failed")
    text = failing.get('[data-column="a"] .problem').text
    assert [each for each in words if each not in text] == []
    assert failing.audit() == []
    fakes["server"].failure = None
    # What was wrong with the request itself stays wrong: it must be changed first.
    is_final = failure.code is grpc.StatusCode.INVALID_ARGUMENT
    again = "Generate" if is_final else "Try again"
    assert ("Try again" in failing.get(".columns").text) != is_final
    failing.button(again, "body" if is_final else '[data-column="a"]').click()
    failing.settled("a")
    assert failing.text("a").startswith("Sure, what")


def test_an_answer_that_breaks_off_keeps_what_was_written(
    failing: Page, fakes: dict[str, Any]
) -> None:
    server = fakes["server"]
    server.failure = Failure(grpc.StatusCode.INTERNAL, "internal error")
    server.failure_after = 3
    failing.button("Generate").click()
    failing.until(lambda: failing.status("a") == "failed")
    assert failing.text("a") == "Sure, what kind"
    assert "Something went wrong inside the generator" in failing.get(".problem").text


def test_stop_ends_the_calls_and_keeps_what_was_written(
    page: Page, before: Callable[[FakeServer], tuple[FakeGenerator, str]]
) -> None:
    fake, address = before(FakeServer(hang_after=2))
    page.open(address)
    page.button("Generate").click()
    page.until(lambda: len(page.tokens("a")) == len(page.tokens("base")) == 2)
    page.button("Stop").click()
    fake.wait(fake.server.cancelled)
    assert page.text("a") == "Sure, what"
    assert (page.status("a"), page.status("base")) == ("stopped", "stopped")
    assert "stopped" in page.get('[data-column="a"]').text
    page.button("Generate")


def test_markup_in_an_answer_is_text(
    page: Page, before: Callable[[FakeServer], tuple[FakeGenerator, str]]
) -> None:
    fake, address = before(HostileServer())
    page.open(address)
    page.write("#prompt", HOSTILE)
    page.generate("base", "a")
    assert page.text("a") == HOSTILE * 9
    assert fake.server.requests[0].chat.messages[-1].content == HOSTILE
    page.hover(page.tokens("a")[0])
    assert "<script>" in page.get("#inspector").text
    assert page.js("return window.owned") is None


def test_a_page_without_a_generator_says_so_and_finds_it_later(page: Page) -> None:
    with FakeGenerator(FakeServer()) as fake:
        nowhere = fake.address
    settings = {"PLAYGROUND_REQUEST_TIMEOUT_S": "1"}
    with running_playground(nowhere, **settings) as (process, address):
        page.open(address)
        problem = page.get(".answers > .problem")
        assert "The generator does not answer" in problem.text
        assert nowhere in problem.text
        assert page.get(".server").text == "no generator"
        assert page.audit() == []

        process.kill()
        process.wait()
        page.button("Generate").click()
        page.until(lambda: page.status("base") == "failed")
        assert "Is `pad playground` still running?" in page.get('[data-column="base"]').text
    assert [each for each in page.complaints() if each["source"] != "network"] == []
