"""Nodes that give away parts of a model over the transport's twin, and a newcomer that fetches."""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from hearthring.node.provider import Provider
from hearthring.node.uploads import Uploads
from hearthring.protocol import layers as wire
from hearthring.protocol.layers import Outline, Piece
from hearthring.protocol.memory import MemoryNetwork, MemoryTransport
from hearthring.protocol.transport import Method, Stream
from hearthring.shards.fetch import Fetcher, Source
from hearthring.shards.layer_store import LayerStore
from hearthring.shards.manifest import quiet
from hearthring.shards.pieces import GgufPieces
from hearthring.shards.store import ModelEntry

PIECE = 8192
"""Bytes: so few that the tiny model's layers have twenty pieces."""
Answer = wire.LayersAnswer
Bend = Callable[[wire.LayersAsk, Answer], Awaitable[Answer]]


class Swarm:
    """Providers of one model, and a newcomer's empty store."""

    def __init__(self, entry: ModelEntry, folder: Path) -> None:
        self.entry, self.network = entry, MemoryNetwork()
        self.sources: list[Source] = []
        self.asked: dict[str, list[wire.LayersAsk]] = {}
        self.refused: dict[str, str] = {}
        self.store = LayerStore(folder / "parts", entry.manifest)
        self.transport = MemoryTransport(self.network)
        self.providers: list[MemoryTransport] = [self.transport]

    async def provider(self, bend: Bend | None = None, entry: ModelEntry | None = None) -> str:
        """A node that has everything, or what ``entry`` has; ``bend`` changes what it says."""
        transport = MemoryTransport(self.network)
        node = transport.identity.node_id
        honest = Provider(entry or self.entry, Uploads(0))
        asked = self.asked.setdefault(node, [])

        async def serve(stream: Stream) -> None:
            while (data := await stream.receive()) is not None:
                _, question = wire.decode_layers_query(data)
                asked.append(question)
                answer = await honest._answer(stream.peer, question)
                if bend is not None:
                    answer = await bend(question, answer)
                await stream.send(wire.encode_layers_reply(answer))

        address = await transport.serve("127.0.0.1:0", {Method.LAYERS: serve})
        self.sources.append(Source(node, address))
        self.providers.append(transport)
        return node

    async def fetch(self, parts: tuple[str, ...], patience: float = 2.0) -> list[str]:
        got: list[str] = []

        async def sources() -> list[Source]:
            return self.sources

        fetcher = Fetcher(
            self.transport, self.store, sources, quiet, self.refused.__setitem__, patience
        )
        await fetcher.fetch(self.store.missing(parts), got.append)
        return got

    def pieces(self, node: str) -> int:
        return sum(isinstance(question, wire.PieceQuery) for question in self.asked[node])

    def same(self, parts: tuple[str, ...]) -> bool:
        """Whether all tensors of some parts are those of the file."""
        ours, theirs = GgufPieces(self.store), self.entry.open()
        names = [n for p in parts for n, q in ours._part_of.items() if q == p]
        return all((ours.raw(n)[2] == theirs.raw(n)[2]).all() for n in names)

    async def close(self) -> None:
        for transport in self.providers:
            await transport.close()


async def flip(question: wire.LayersAsk, answer: Answer) -> Answer:
    """Honest hashes, wrong bytes."""
    if isinstance(answer, Piece):
        return Piece(bytes([answer.data[0] ^ 1]) + answer.data[1:])
    return answer


async def forge(question: wire.LayersAsk, answer: Answer) -> Answer:
    """Wrong bytes, and hashes that fit them."""
    if isinstance(answer, Piece):
        return Piece(bytes(len(answer.data)))
    if isinstance(answer, Outline):
        left = answer.size % PIECE or PIECE
        whole = hashlib.sha256(bytes(PIECE)).digest()
        last = hashlib.sha256(bytes(left)).digest()
        return Outline(answer.size, (whole,) * (len(answer.hashes) - 1) + (last,))
    return answer


async def grow(question: wire.LayersAsk, answer: Answer) -> Answer:
    """Promise more bytes than the part has."""
    if isinstance(answer, Outline):
        return Outline(answer.size + PIECE, (*answer.hashes, bytes(32)))
    return answer
