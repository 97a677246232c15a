"""Where prompts become tokens: on the event loop while that is quick, else beside it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from svc_common.preference_prompt import Prompt

T = TypeVar("T")

# A thread costs 0.1 ms, and so much text about 1 ms.
MAX_QUICK_CHARACTERS = 4096
TURN_CHARACTERS = 64  # what a turn costs a chat template, in characters of its text


class Tokenizing:
    """Runs what tokenises long texts on one thread, in order of arrival.

    A megabyte takes half a second, in which the event loop would answer nobody. The tokenizer's
    own work needs no interpreter lock; chat templates do, but let others have it in between.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizing")

    async def run(self, num_characters: int, work: Callable[[], T]) -> T:
        """Return the result of `work`, which tokenises about so many characters."""
        if num_characters <= MAX_QUICK_CHARACTERS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Let what runs end, and nothing else begin."""
        self._executor.shutdown(wait=True, cancel_futures=True)


def size_of(prompt: Prompt) -> int:
    """Return how many characters a prompt is worth."""
    if isinstance(prompt, str):
        return len(prompt)
    return sum(TURN_CHARACTERS + len(message.content) for message in prompt)
