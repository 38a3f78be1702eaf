"""A question that is cut short leaves the stream to its stage whole."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from hearthring.client.attachment import Attachment
from hearthring.client.hearing import Hearing
from hearthring.client.route import Stage
from hearthring.protocol.errors import HearthringError, PeerUnreachable
from hearthring.protocol.messages import (
    AttachDown,
    Opened,
    Probe,
    Reroute,
    Rerouted,
    Step,
    Tap,
    Trouble,
)
from hearthring.protocol.wire import encode_down, encode_up
from tests.stage_peer import until


class SlowStream:
    """A stream whose writes wait; as with gRPC, a write that is cancelled ends it."""

    peer = "somebody"

    def __init__(self) -> None:
        self.room, self.written, self.broken = asyncio.Event(), list[bytes](), False
        self.inbox, self.writing = asyncio.Queue[AttachDown](), 0

    async def send(self, data: bytes) -> None:
        self.writing += 1
        assert self.writing == 1, "one task may send"
        try:
            await self.room.wait()
        except asyncio.CancelledError:
            self.broken = True
            raise
        finally:
            self.writing -= 1
        self.written.append(data)

    async def receive(self) -> bytes | None:
        return encode_down(await self.inbox.get())

    async def close(self) -> None:
        pass


class Deaf:
    """Hears of nothing."""

    async def on_result(self, of: Attachment, step: Step) -> None: ...

    def on_tap(self, of: Attachment, tap: Tap) -> None: ...

    def on_trouble(self, of: Attachment, trouble: Trouble) -> bool:
        return True

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
    await until(lambda: bool(stream.written))
    assert stream.written == [encode_up(Probe(1))]
    await attached.close()


async def test_frames_are_written_one_by_one_and_in_order() -> None:
    stream = SlowStream()
    attached = Attachment(Stage("n", "h:1", 0, 2, "fp32", "", ""), stream, Deaf())
    posts = [attached.post(Probe(number)) for number in range(5)]
    await until(lambda: bool(stream.writing))
    stream.room.set()
    await asyncio.gather(*posts)
    assert stream.written == [encode_up(Probe(number)) for number in range(5)]
    await attached.close()


async def test_closing_ends_a_write_that_waits() -> None:
    stream = SlowStream()
    attached = Attachment(Stage("n", "h:1", 0, 2, "fp32", "", ""), stream, Deaf())
    saying = asyncio.create_task(attached.say(Probe(1)))
    await until(lambda: bool(stream.writing))
    await attached.close()
    with pytest.raises(asyncio.CancelledError):
        await saying
    assert stream.broken
    assert not stream.written


async def test_only_a_trouble_of_this_epoch_stands_in_the_way_of_its_orders() -> None:
    """A stage's word that its neighbour is gone may cross the orders that name another one."""
    stream, lost = SlowStream(), list[Attachment]()
    stream.room.set()
    places = SimpleNamespace(attached=list[Attachment]())
    handing = SimpleNamespace(opened=[])
    ring: Any = SimpleNamespace(
        epoch=1, places=places, handing=handing, lose=lambda who, why: lost.append(who)
    )
    attached = Attachment(Stage("n", "h:1", 0, 2, "fp32", "", ""), stream, Hearing(ring))
    other = Attachment(Stage("new", "h:2", 2, 4, "fp32", "", ""), SlowStream(), Deaf())
    places.attached += [attached, other]
    gone = PeerUnreachable("no connection", field="gone")
    stream.inbox.put_nowait(Trouble(0, "gone", gone))
    stream.inbox.put_nowait(Rerouted(1, 7))
    order = Reroute(1, "me", "", "new", "h:2", (), ())
    assert await attached.ask(order, Rerouted, 5.0, 1) == Rerouted(1, 7)
    assert not attached.blocked
    stream.inbox.put_nowait(Trouble(1, "new", gone))
    with pytest.raises(PeerUnreachable):
        await attached.ask(order, Rerouted, 5.0, 1)
    assert attached.blocked
    assert lost == [other]
    for one in (attached, other):
        await one.close()
