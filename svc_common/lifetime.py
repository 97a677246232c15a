"""How long a service lives: until it has drained, or a part it cannot do without is broken."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def until_first(
    service: Coroutine[Any, Any, None], *helpers: Coroutine[Any, Any, None]
) -> None:
    """Run all until `service` ends, or until one of its helpers fails, which ends it.

    Raises:
        Exception: What a helper, or the service itself, failed with.
    """
    main_task = asyncio.create_task(service)
    tasks = [main_task, *map(asyncio.create_task, helpers)]
    try:
        while not main_task.done():
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            tasks = [task for task in tasks if not task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
