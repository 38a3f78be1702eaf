"""Event loops: uvloop's where there is one, as each turn of it costs half as much."""

import asyncio


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop of its own for one thread."""
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
