"""A question that is cut short leaves the stream to its stage whole."""

import asyncio

import pytest

from hearthring.client.attachment import Attachment
from hearthring.client.route import Stage
from hearthring.protocol.errors import HearthringError
from hearthring.protocol.messages import Opened, Probe, Step, Tap, Trouble
from hearthring.protocol.wire import encode_up


class SlowStream:
    """A stream whose writes wait; as with gRPC, a write that is cancelled ends it."""

    peer = "somebody"

    def __init__(self) -> None:
        self.room, self.written, self.broken = asyncio.Event(), list[bytes](), False

    async def send(self, data: bytes) -> None:
        try:
            await self.room.wait()
        except asyncio.CancelledError:
            self.broken = True
            raise
        self.written.append(data)

    async def receive(self) -> bytes | None:
        await asyncio.Event().wait()
        return None

    async def close(self) -> None:
        pass


class Deaf:
    """Hears of nothing."""

    def on_result(self, of: Attachment, step: Step) -> None: ...

    def on_tap(self, of: Attachment, tap: Tap) -> None: ...

    def on_trouble(self, of: Attachment, trouble: Trouble) -> None: ...

    def on_end(self, of: Attachment, error: HearthringError, said: bool) -> None: ...


async def test_a_question_that_is_cancelled_is_still_written() -> None:
    stream = SlowStream()
    attached = Attachment(Stage("n", "h:1", 0, 2, "fp32", "", ""), stream, Deaf())
    asking = asyncio.create_task(attached.ask(Probe(1), Opened, 60.0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not stream.broken
    stream.room.set()
    await asyncio.sleep(0.01)
    assert stream.written == [encode_up(Probe(1))]
    await attached.close()


async def test_closing_ends_a_write_that_waits() -> None:
    stream = SlowStream()
    attached = Attachment(Stage("n", "h:1", 0, 2, "fp32", "", ""), stream, Deaf())
    saying = asyncio.create_task(attached.say(Probe(1)))
    await asyncio.sleep(0.01)
    await attached.close()
    with pytest.raises(asyncio.CancelledError):
        await saying
    assert stream.broken
    assert not stream.written
