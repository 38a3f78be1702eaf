"""A client's stream to one stage: what it is asked, and what it says by itself."""

import asyncio
from typing import Any, Protocol, TypeVar, cast

from hearthring.client.route import Stage
from hearthring.protocol.errors import DeadlineExceeded, HearthringError, StageFailed
from hearthring.protocol.messages import (
    AttachDown,
    AttachUp,
    Opened,
    Probe,
    Progress,
    Rerouted,
    Step,
    Tap,
    Trouble,
)
from hearthring.protocol.tasks import cancel
from hearthring.protocol.transport import Stream
from hearthring.protocol.wire import decode_down, encode_up

T = TypeVar("T", bound=AttachDown)


class Session(Protocol):
    """Who hears of what stages say unasked."""

    async def on_result(self, of: "Attachment", step: Step) -> None:
        """A step came back; nothing else is heard of the stage until this returns.

        Raises a ``HearthringError`` if it isn't what it must be.
        """

    def on_tap(self, of: "Attachment", tap: Tap) -> None:
        """Residuals at an inner boundary."""

    def on_trouble(self, of: "Attachment", trouble: Trouble) -> bool:
        """Something is in the session's way; whether it is still."""

    def on_end(self, of: "Attachment", error: HearthringError, said: bool) -> None:
        """The stream is over; ``said`` when the stage itself ended it with this error."""


class Attachment:
    """One stage's stream and what is awaited on it.

    ``down`` is why the stage is of no use any more. A ``suspected`` one may only be slow: its
    stream is still open.
    """

    def __init__(self, stage: Stage, stream: Stream, session: Session) -> None:
        self.stage, self.down, self.suspected = stage, cast("HearthringError | None", None), False
        self.blocked = False
        """Whether it opened or re-routed, but can't reach the next stage."""
        self.last_step = 0
        """The last step of this epoch that passes this stage."""
        self.whole = False
        """Whether it holds every living row up to the newest it ran. One that takes another's place
        doesn't before all were sent again, however often the ring is re-routed meanwhile."""
        self.fed: frozenset[int] | None = None
        """Rows of the text that it was given before it became part of the ring, if it was so."""
        self._stream, self._session = stream, session
        self._probes, self._writing = 0, asyncio.Lock()
        self._awaited: dict[tuple[type, int], asyncio.Future[Any]] = {}
        self._sending = set[asyncio.Task[None]]()
        self._task = asyncio.create_task(self._listen())

    async def say(self, frame: AttachUp) -> None:
        """Send a frame. Raises what the stream ended with.

        Cancelling the caller doesn't cancel the write: gRPC would end the whole stream with it, and
        an attempt to mend the ring that is cut short must not cost a stage that is well.
        """
        await asyncio.shield(self.post(frame))

    def post(self, frame: AttachUp) -> "asyncio.Task[None]":
        """Send a frame that nobody need wait for; it is given up when the attachment is closed."""
        sending = asyncio.create_task(self._write(encode_up(frame)))
        self._sending.add(sending)
        sending.add_done_callback(self._sent)
        return sending

    async def _write(self, data: bytes) -> None:
        """One write at a time, in the order in which they were asked for: a second one beside it
        would end the stream."""
        async with self._writing:
            await self._stream.send(data)

    def _sent(self, sending: "asyncio.Task[None]") -> None:
        self._sending.discard(sending)
        if not sending.cancelled():
            sending.exception()  # whoever still waits is told; the listener notices in any case

    async def ask(self, frame: AttachUp, kind: type[T], seconds: float, number: int = 0) -> T:
        """Send a frame and await its answer, ``number`` telling which if there may be several.

        Raises what the stream ended with, or ``DeadlineExceeded``.
        """
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        # Whoever asks may have given up by the time that an error settles it.
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._awaited[kind, number] = answer
        try:
            async with asyncio.timeout(seconds):
                if self.down is not None and not self.suspected:
                    raise self.down
                await self.say(frame)
                return await answer
        except TimeoutError:
            raise DeadlineExceeded("no answer in time", field=self.stage.node) from None
        finally:
            self._awaited.pop((kind, number), None)

    async def probe(self, seconds: float) -> Progress:
        """Ask whether it is there, and how far it is. Raises as ``ask`` does."""
        self._probes += 1
        return await self.ask(Probe(self._probes), Progress, seconds, self._probes)

    async def close(self) -> None:
        """Leave the stage. Idempotent."""
        await cancel([self._task, *self._sending])
        await self._stream.close()

    async def _listen(self) -> None:
        """Read the stage's frames until it ends the stream, which it has no reason to do."""
        said = True
        try:
            while (data := await self._stream.receive()) is not None:
                said = False
                await self._take(decode_down(data))
                said = True
            raise StageFailed("it ended the session", field=self.stage.node)
        except HearthringError as error:
            self._session.on_end(self, error, said)
            for awaited in self._awaited.values():
                if not awaited.done():
                    awaited.set_exception(error)

    def _block(self, error: HearthringError) -> None:
        """What needs the next stage to be reached won't be answered."""
        self.blocked = True
        for (kind, _), awaited in self._awaited.items():
            if kind in (Opened, Rerouted) and not awaited.done():
                awaited.set_exception(error)

    async def _take(self, frame: AttachDown) -> None:
        number = 0
        match frame:
            case Step():
                return await self._session.on_result(self, frame)
            case Tap():
                return self._session.on_tap(self, frame)
            case Trouble():
                # What a stage said of a neighbour that it has no more doesn't stand in the way of
                # its new orders, which may have crossed the news.
                stands = self._session.on_trouble(self, frame)
                if stands and frame.node != self.stage.node:
                    self._block(frame.error)
                return None
            case Rerouted(epoch, _, _, _):
                number = epoch
            case Progress(probe, _, _):
                number = probe
        awaited = self._awaited.get((type(frame), number))
        if awaited is not None and not awaited.done():
            awaited.set_result(frame)
        return None
