"""A process whose writers all add words to one profile; prints those that were acknowledged."""

import asyncio
import json
import sys

from generator_svc.profiles import Preference
from svc_common.errors import ProfileConflictError, StoreUnavailableError
from tests.generator_svc.store_watch import OLD_COPIES, opened


async def add(store, word):
    """Add a word with compare-and-set; return whether this was acknowledged."""
    while True:
        try:
            old = await store.get("t", "ann")
            text = old.preferences[0].text
            if word in text.split():
                return False  # it was stored, but nobody said so
            preferences = (Preference(f"{text} {word}", 1.0),)
            await store.put("t", "ann", preferences, None, old.revision)
        except ProfileConflictError:
            continue
        except StoreUnavailableError:
            await asyncio.sleep(0.01)
            continue
        return True


async def write(store, name, num_words):
    words = [f"{name}{number}" for number in range(num_words)]
    return [word for word in words if await add(store, word)]


async def main(url, name, num_writers, num_words):
    async with opened(url, OLD_COPIES) as store:
        names = [f"{name}{number}." for number in range(num_writers)]
        acknowledged = await asyncio.gather(*(write(store, one, num_words) for one in names))
    sys.stdout.write(json.dumps([word for words in acknowledged for word in words]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
