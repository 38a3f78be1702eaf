"""The transport's twin inside one process, for tests without sockets.

Same promises as the real one: bytes are copied through queues, closing ends, errors keep their
names, and a message that nobody reads blocks its sender.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    PeerUnreachable,
    PortInUse,
    TooLarge,
    WrongIdentity,
)
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.transport import Handler, Method

_END = None
_DEPTH = 64
Item = bytes | HearthringError | None


@dataclass(slots=True)
class MemoryNetwork:
    """What the transports of one test share: who listens where."""

    listeners: dict[str, "MemoryTransport"] = field(default_factory=dict)


class MemoryStream:
    """One side of a pair of queues. ``serving``: a handler's side, which as gRPC's brings nothing
    more once a read was broken off."""

    def __init__(
        self,
        peer: str,
        inbox: "asyncio.Queue[Item]",
        outbox: "asyncio.Queue[Item]",
        serving: bool = False,
    ) -> None:
        self.peer, self._inbox, self._outbox, self._serving = peer, inbox, outbox, serving
        self._ended: HearthringError | None = None
        self._closed = self._broken_off = False

    async def send(self, data: bytes) -> None:
        if self._ended is not None:
            raise self._ended
        if self._closed:
            raise PeerUnreachable("the stream is closed", field=self.peer)
        if len(data) > LIMITS.message_bytes:
            raise TooLarge(f"{len(data)} bytes", field="message")
        try:
            async with asyncio.timeout(LIMITS.write):
                await self._outbox.put(bytes(data))
        except TimeoutError:
            raise DeadlineExceeded("the reader is too slow", field=self.peer) from None

    async def receive(self) -> bytes | None:
        if self._ended is not None:
            raise self._ended
        if self._broken_off:
            raise PeerUnreachable("a read was broken off", field=self.peer)
        try:
            item = await self._inbox.get()
        except asyncio.CancelledError:
            self._broken_off = self._serving
            raise
        if isinstance(item, HearthringError):
            self._ended = item
            raise item
        return item

    async def close(self) -> None:
        self.end(_END)

    def end(self, item: Item) -> None:
        """Put the last item into the peer's inbox, making room if it doesn't read."""
        if self._closed:
            return
        self._closed = True
        while True:
            with contextlib.suppress(asyncio.QueueFull):
                return self._outbox.put_nowait(item)
            self._outbox.get_nowait()


class MemoryTransport:
    """A peer in a ``MemoryNetwork``."""

    def __init__(self, network: MemoryNetwork, identity: Identity | None = None) -> None:
        self.identity = identity or Identity.new()
        self._network, self._handlers = network, dict[Method, Handler]()
        self._tasks = set[asyncio.Task[None]]()
        self._address = ""

    async def serve(self, address: str, handlers: Mapping[Method, Handler]) -> str:
        if address.endswith(":0"):
            address = f"{address[:-1]}{len(self._network.listeners) + 1}"
        if address in self._network.listeners:
            raise PortInUse("somebody listens there", field=address)
        self._network.listeners[address] = self
        self._handlers, self._address = dict(handlers), address
        return address

    async def dial(self, address: str, node_id: str, method: Method) -> MemoryStream:
        server = self._network.listeners.get(address)
        if server is None:
            raise PeerUnreachable("connection refused", field=address)
        if server.identity.node_id != node_id:
            raise WrongIdentity(f"the server there isn't {node_id}", field="node id")
        return server.accept(self.identity.node_id, method)

    def accept(self, caller: str, method: Method) -> MemoryStream:
        """Start a handler for a caller, and return the caller's side."""
        up, down = asyncio.Queue[Item](_DEPTH), asyncio.Queue[Item](_DEPTH)
        mine = MemoryStream(caller, up, down, serving=True)
        task = asyncio.create_task(self._run(self._handlers[method], mine))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return MemoryStream(self.identity.node_id, down, up)

    async def _run(self, handler: Handler, stream: MemoryStream) -> None:
        gone = PeerUnreachable("connection closed", field=self._address)
        try:
            await handler(stream)
            stream.end(_END)
        except HearthringError as error:
            stream.end(error)
        finally:
            stream.end(gone)

    async def close(self) -> None:
        self._network.listeners.pop(self._address, None)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
