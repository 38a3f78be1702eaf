"""A transport that notes in passing how long nodes take to answer, and to take bytes."""

import time
from collections.abc import Mapping, Sequence

from hearthring.client.flight import Result
from hearthring.client.peers import BULK_BYTES, PeerTable
from hearthring.client.route import Stage
from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import GENERATED
from hearthring.protocol.transport import Handler, Method, Stream, Transport


class MeasuringTransport:
    """Another transport, unchanged but for the table it feeds. Owns the other one."""

    def __init__(self, inner: Transport, peers: PeerTable) -> None:
        self._inner, self._peers = inner, peers
        self._connected = set[tuple[str, str]]()

    @property
    def identity(self) -> Identity:
        """The other transport's."""
        return self._inner.identity

    async def dial(self, address: str, node_id: str, method: Method) -> Stream:
        begun = time.monotonic()
        stream = await self._inner.dial(address, node_id, method)
        if (address, node_id) in self._connected:  # else it holds the connection's handshakes too
            self._peers.round_trip(node_id, time.monotonic() - begun)
        self._connected.add((address, node_id))
        return _MeasuringStream(stream, self._peers)

    async def serve(self, address: str, handlers: Mapping[Method, Handler]) -> str:
        return await self._inner.serve(address, handlers)

    async def close(self) -> None:
        await self._inner.close()


class _MeasuringStream:
    def __init__(self, inner: Stream, peers: PeerTable) -> None:
        self._inner, self._peers = inner, peers
        self.peer = inner.peer
        self.receive, self.close = inner.receive, inner.close

    async def send(self, data: bytes) -> None:
        if len(data) < BULK_BYTES:
            await self._inner.send(data)
            return
        begun = time.monotonic()
        await self._inner.send(data)
        self._peers.moved(self.peer, len(data), time.monotonic() - begun)


def learn(peers: PeerTable, route: Sequence[Stage], results: Sequence[Result]) -> None:
    """Note the pace of every stage from the steps that took one generated row round the ring."""
    for result in results:
        if len(result.rows) != 1 or result.rows[0].kind != GENERATED:
            continue
        if len(result.times) == len(route):  # else a stage keeps its times to itself
            for stage, took in zip(route, result.times, strict=True):
                peers.ran(stage.node, stage.end - stage.start, took.queue + took.compute)
