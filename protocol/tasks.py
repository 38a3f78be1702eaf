"""Task ownership: whoever starts a task cancels and awaits it."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def cancel(tasks: "Iterable[asyncio.Future[Any]]") -> None:
    """Cancel tasks and wait until they are gone; what they raise is dropped."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def all_or_none(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines to their ends; if one fails, end the others and raise what it raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        await cancel(tasks)


async def race(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines until the first one ends, end the others, and raise what the first raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(tasks)
    for task in tasks:
        if task in done:
            task.result()


async def until(event: asyncio.Event) -> None:
    """Wait for an event, in a ``race``."""
    await event.wait()
