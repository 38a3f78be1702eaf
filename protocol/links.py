"""Links: one ordered ``Pass`` stream per peer, shared by all sessions that send rows there."""

import asyncio
import contextlib
from collections.abc import Callable

from hearthring.protocol.backlog import Backlog
from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    PeerUnreachable,
    QuotaExceeded,
    TooLarge,
)
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.tasks import cancel, race
from hearthring.protocol.transport import Method, Stream, Transport

OnBreak = Callable[[HearthringError], None]


class Link:
    """An open ``Pass`` stream with its own writer. Ends once, and tells its users why."""

    def __init__(self, stream: Stream) -> None:
        self.node_id = stream.peer
        self.broken: HearthringError | None = None
        self._stream = stream
        self._queue = Backlog[bytes](LIMITS.link)
        self._users = set[OnBreak]()
        self._task = asyncio.create_task(self._run())

    def post(self, data: bytes) -> None:
        """Queue a message behind those before it. Never blocks.

        Raises what broke the link, ``QuotaExceeded`` when the peer reads too slowly, or
        ``TooLarge``: a message nobody would take may end its sender's session, not the link.
        """
        if self.broken is not None:
            raise self.broken
        if len(data) > LIMITS.message_bytes:
            raise TooLarge(f"{len(data)} bytes", field="message")
        try:
            self._queue.put(data, len(data))
        except asyncio.QueueFull:
            raise QuotaExceeded("the next stage reads too slowly", field=self.node_id) from None

    @property
    def used(self) -> bool:
        """Whether anybody is told when it breaks."""
        return bool(self._users)

    def use(self, on_break: OnBreak) -> Callable[[], None]:
        """Be told when the link breaks; returns how to stop being told. Until then it stays open,
        as far as it is up to this side."""
        self._users.add(on_break)
        return lambda: self._users.discard(on_break)

    async def close(self) -> None:
        try:
            await cancel([self._task])
        finally:
            await self._stream.close()

    async def _run(self) -> None:
        try:
            await race(self._write(), self._watch())
            raise PeerUnreachable("the stage ended the stream", field=self.node_id)
        except HearthringError as error:
            self.broken = error
            for on_break in list(self._users):
                on_break(error)
            await self._stream.close()

    async def _write(self) -> None:
        while True:
            await self._stream.send(await self._queue.get())

    async def _watch(self) -> None:
        while await self._stream.receive() is not None:
            pass


class Links:
    """The links of one process, by peer and address, of which the last few stay open unused."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._links: dict[tuple[str, str], Link] = {}
        self._opening: dict[tuple[str, str], asyncio.Lock] = {}

    async def get(self, address: str, node_id: str) -> Link:
        """The link to a peer, opened if need be.

        Whoever needs it for longer uses it at once: what is unused may be closed for others. Raises
        what ``dial`` raises, or ``DeadlineExceeded`` if the peer doesn't say that it is ready to
        take rows.
        """
        key = (address, node_id)
        try:
            async with self._opening.setdefault(key, asyncio.Lock()):
                if (link := self._live(key)) is not None:
                    return link
                await self._tidy()
                stream = await self._open(address, node_id)
                if (link := self._live(key)) is not None:  # whoever didn't wait was faster
                    await stream.close()
                    return link
                link = self._links[key] = Link(stream)
                return link
        finally:  # addresses are what peers say, so none is remembered for longer than it is used
            self._opening.pop(key, None)

    def _live(self, key: tuple[str, str]) -> Link | None:
        link = self._links.pop(key, None)
        if link is None or link.broken is not None:
            return None
        self._links[key] = link  # now the most recently asked for
        return link

    async def _tidy(self) -> None:
        """Forget links that broke, and close those that nobody has used for longest, but a few."""
        self._links = {key: link for key, link in self._links.items() if link.broken is None}
        unused = [key for key, link in self._links.items() if not link.used]
        for key in unused[: -LIMITS.unused]:
            if (link := self._links.get(key)) is not None and not link.used:
                del self._links[key]
                await link.close()

    async def _open(self, address: str, node_id: str) -> Stream:
        stream = await self._transport.dial(address, node_id, Method.PASS)
        try:
            async with asyncio.timeout(LIMITS.connect):
                if await stream.receive() is None:
                    raise PeerUnreachable("the stage takes no rows", field=node_id)
        except TimeoutError:
            await stream.close()
            raise DeadlineExceeded("the stage doesn't take rows in time", field=node_id) from None
        except BaseException:  # whoever wanted the link may want another one by now
            await stream.close()
            raise
        return stream

    async def close(self) -> None:
        links, self._links = self._links, {}
        for link in links.values():
            with contextlib.suppress(HearthringError):
                await link.close()
