"""Long texts are tokenised beside the event loop, short ones on it."""

import asyncio
import threading

import pytest

from svc_common.errors import InvalidRequestError
from svc_common.lm.tokenizing import MAX_QUICK_CHARACTERS, TURN_CHARACTERS, Tokenizing, size_of
from svc_common.preference_prompt import ChatMessage

LONG = MAX_QUICK_CHARACTERS + 1


async def test_the_loop_goes_on_while_a_long_text_is_tokenised() -> None:
    """A prompt of a megabyte held up everybody for half a second."""
    tokenizing, told = Tokenizing(), threading.Event()

    def work() -> int:
        assert told.wait(10)  # by the loop, which would wait for us if this ran on it
        return threading.get_ident()

    working = asyncio.ensure_future(tokenizing.run(LONG, work))
    await asyncio.sleep(0)
    told.set()
    assert await working != threading.get_ident()
    tokenizing.close()


async def test_a_short_text_is_tokenised_at_once() -> None:
    tokenizing = Tokenizing()
    assert await tokenizing.run(MAX_QUICK_CHARACTERS, threading.get_ident) == threading.get_ident()
    tokenizing.close()


@pytest.mark.parametrize("size", [1, LONG])
async def test_what_is_refused_is_refused_wherever_it_ran(size: int) -> None:
    def work() -> None:
        raise InvalidRequestError("prompt: must be other")

    tokenizing = Tokenizing()
    with pytest.raises(InvalidRequestError, match="must be other"):
        await tokenizing.run(size, work)
    tokenizing.close()


def test_turns_count_beside_their_texts() -> None:
    assert size_of("abc") == 3
    assert size_of((ChatMessage("user", "ab"), ChatMessage("user", ""))) == 2 + 2 * TURN_CHARACTERS
