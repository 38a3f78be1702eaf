"""The client without an event loop: what is interrupted has ended when the caller goes on."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from hearthring import Client
from hearthring.client.sync import SyncAnswerStream


def interrupt() -> None:
    """Ctrl-C for whoever waits for the loop."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


class Pieces:
    """A stream whose user loses patience while it waits for the second piece."""

    def __init__(self) -> None:
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            yield "one"
            interrupt()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)  # as a session takes its leave of every node
            self.closed = True


@pytest.fixture
def client() -> Iterator[Client]:
    """A client of a program that Ctrl-C ends, also where the tests are run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Client() as client:
            yield client
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupted_stream_is_closed_at_every_node(client: Client) -> None:
    pieces: Any = Pieces()
    seen = []
    with pytest.raises(KeyboardInterrupt):
        seen += SyncAnswerStream(pieces, client._run)
    assert pieces.closed


def test_an_interrupted_call_has_ended_when_the_caller_goes_on(client: Client) -> None:
    pieces: Any = Pieces()

    async def call() -> list[str]:
        return [piece async for piece in pieces]

    with pytest.raises(KeyboardInterrupt):
        client._run(call())
    assert pieces.closed


async def failing() -> None:
    raise ValueError("boundary")


def test_errors_of_a_call_are_the_callers(client: Client) -> None:
    with pytest.raises(ValueError, match="boundary"):
        client._run(failing())
