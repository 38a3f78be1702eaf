"""Parts of a tiny model, fetched over the transport's twin from honest, lying and dying peers."""

import asyncio
import gc
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hearthring.node.provider import Provider
from hearthring.node.uploads import Uploads
from hearthring.protocol import layers as wire
from hearthring.protocol import limits
from hearthring.protocol.asking_layers import LayersPeer
from hearthring.protocol.errors import (
    DeadlineExceeded,
    DiskFull,
    ModelNotHere,
    PeerUnreachable,
)
from hearthring.protocol.layers import Outline, Piece
from hearthring.protocol.memory import MemoryNetwork, MemoryTransport
from hearthring.protocol.transport import Method, Stream
from hearthring.shards import fetch as fetching
from hearthring.shards.fetch import Fetcher, Source
from hearthring.shards.layer_store import FileParts, LayerStore
from hearthring.shards.manifest import quiet
from hearthring.shards.parts import all_parts, size_of, window_parts
from hearthring.shards.pieces import GgufPieces
from hearthring.shards.store import ModelEntry

PIECE = 8192
Answer = wire.LayersAnswer
Bend = Callable[[wire.LayersAsk, Answer], Awaitable[Answer]]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pieces so small that the tiny model's layers have twenty."""
    monkeypatch.setattr(limits, "LIMITS", limits.LIMITS)
    before = limits.LIMITS.piece_bytes
    object.__setattr__(limits.LIMITS, "piece_bytes", PIECE)
    monkeypatch.setattr(fetching, "PAUSE", 0.01)
    yield
    object.__setattr__(limits.LIMITS, "piece_bytes", before)


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


@pytest.fixture
async def swarm(tiny: ModelEntry, tmp_path: Path):  # type: ignore[no-untyped-def]
    swarm = Swarm(tiny, tmp_path)
    yield swarm
    await swarm.close()


async def test_exactly_the_wanted_layers_come_and_nothing_else(swarm: Swarm) -> None:
    one, other = await swarm.provider(), await swarm.provider()
    parts = window_parts(1, 3)
    assert sorted(await swarm.fetch(parts)) == sorted(parts)
    assert swarm.store.here() == parts
    assert swarm.same(parts)
    assert {path.name for path in swarm.store.folder.iterdir()} == {"layer1.gguf", "layer2.gguf"}
    wanted = sum(size_of(swarm.entry.manifest, part) or 0 for part in parts)
    assert wanted < swarm.store.bytes() < wanted + 4096 * len(parts)
    assert swarm.pieces(one) + swarm.pieces(other) == 2 * -(-wanted // 2 // PIECE)
    assert min(swarm.pieces(one), swarm.pieces(other)) > 5
    with pytest.raises(ModelNotHere, match="layer0"):
        GgufPieces(swarm.store).raw("blk.0.attn_q.weight")


async def test_a_whole_model_of_parts_is_the_model(swarm: Swarm) -> None:
    await swarm.provider()
    parts = all_parts(swarm.entry.manifest)
    await swarm.fetch(parts)
    ours, theirs = GgufPieces(swarm.store), swarm.entry.open()
    assert ours.tensor_names() == theirs.tensor_names()
    for name in ours.tensor_names():
        kind, shape, data = ours.raw(name)
        assert (kind, shape) == theirs.raw(name)[:2]
        assert (data == theirs.raw(name)[2]).all()
        assert data.ctypes.data % 32 == 0
        assert not data.flags.writeable
    mine, his = ours.fields("tokenizer."), theirs.fields("tokenizer.")
    assert mine.keys() == his.keys()
    assert all(np.array_equal(mine[key], his[key]) for key in mine)


async def test_who_was_fetched_from_can_be_fetched_from(swarm: Swarm, tmp_path: Path) -> None:
    await swarm.provider()
    await swarm.fetch(window_parts(0, 2))
    second = Swarm(swarm.entry, tmp_path / "second")
    folder, manifest = swarm.store.folder, swarm.entry.manifest
    await second.provider(entry=ModelEntry(manifest, folder, "x", manifest.model_id))
    await second.fetch(("layer1",))
    assert second.same(("layer1",))
    with pytest.raises(ModelNotHere, match=r"layer3 couldn't be fetched.*none of 1 nodes has it"):
        await second.fetch(("layer3",), patience=0.0)
    await second.close()


def test_a_part_of_a_file_stays_open_for_as_long_as_it_is_read(tiny: ModelEntry) -> None:
    parts = FileParts(tiny.open(), tiny.manifest)
    with parts.open("layer0") as opened:
        first = opened.bytes.read(0, 100)
        del parts
        gc.collect()
        assert opened.bytes.read(0, 100) == first


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


@pytest.mark.parametrize("bend", [flip, forge, grow])
async def test_bad_bytes_are_refused_and_their_sender_is_noted(swarm: Swarm, bend: Bend) -> None:
    liars = {await swarm.provider(bend), await swarm.provider(bend)}
    honest = await swarm.provider()
    parts = window_parts(0, 4)
    await swarm.fetch(parts)
    assert swarm.same(parts)
    assert swarm.refused.keys() == liars
    assert swarm.pieces(honest) >= sum(
        -(-(size_of(swarm.entry.manifest, part) or 0) // PIECE) for part in parts
    ) - sum(swarm.pieces(liar) for liar in liars)


@pytest.mark.parametrize("bend", [flip, forge, grow])
async def test_among_liars_alone_nothing_is_ever_loaded(swarm: Swarm, bend: Bend) -> None:
    liar = await swarm.provider(bend)
    with pytest.raises(ModelNotHere, match=liar[-8:]):
        await swarm.fetch(("layer0", "tokenizer"), patience=0.0)
    assert swarm.refused.keys() == {liar}
    assert not swarm.store.missing(swarm.store.here())
    assert "layer0" not in swarm.store.here()


async def test_nobodys_stream_stays_open(swarm: Swarm) -> None:
    """Neither that of who sent what was wanted nor that of who was refused."""
    await swarm.provider(flip)
    await swarm.provider()
    await swarm.fetch(window_parts(0, 4))
    async with asyncio.timeout(5):
        while any(each._tasks for each in swarm.providers):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_stalling_peer_costs_only_the_pieces_it_has(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "STRAGGLER", 0.05)
    stalled = asyncio.Event()

    async def stall(question: wire.LayersAsk, answer: Answer) -> Answer:
        if isinstance(answer, Piece) and question.index > 3:  # type: ignore[union-attr]
            await stalled.wait()
        return answer

    slow, _ = await swarm.provider(stall), await swarm.provider()
    parts = window_parts(0, 4)
    await swarm.fetch(parts)
    assert swarm.same(parts)
    assert swarm.refused == {}
    assert swarm.pieces(slow) <= 4 * fetching.LANES + 4 * 4


async def test_a_dying_peer_costs_nothing_and_another_goes_on(swarm: Swarm) -> None:
    left = 30

    async def die(question: wire.LayersAsk, answer: Answer) -> Answer:
        nonlocal left
        left -= 1
        if left < 0:
            raise PeerUnreachable("killed", field="test")
        return answer

    await swarm.provider(die)
    await swarm.provider()
    parts = window_parts(0, 4)
    await swarm.fetch(parts)
    assert swarm.same(parts)


async def test_what_is_here_already_renews_nobodys_patience(swarm: Swarm) -> None:
    """A peer that never sends more than the first piece is given up, however often it is asked."""

    async def first_alone(question: wire.LayersAsk, answer: Answer) -> Answer:
        if isinstance(answer, Piece) and question.index:  # type: ignore[union-attr]
            raise PeerUnreachable("no more", field="test")
        return answer

    await swarm.provider(first_alone)
    async with asyncio.timeout(20):
        with pytest.raises(ModelNotHere, match="no more"):
            await swarm.fetch(("layer2",), patience=1.0)
    assert [path.name for path in swarm.store.folder.iterdir()] == ["layer2.gguf.coming"]


async def test_a_fetch_goes_on_where_it_was_cut_off(swarm: Swarm) -> None:
    """The source is killed midway, then it is back: no piece is sent twice."""
    left = 12
    alive = True

    async def die(question: wire.LayersAsk, answer: Answer) -> Answer:
        nonlocal left
        left -= isinstance(answer, Piece)
        if alive and left < 0:
            raise PeerUnreachable("killed", field="test")
        return answer

    node = await swarm.provider(die)
    with pytest.raises(ModelNotHere, match="killed"):
        await swarm.fetch(("layer2",), patience=0.0)
    assert swarm.store.here() == ()
    assert [path.name for path in swarm.store.folder.iterdir()] == ["layer2.gguf.coming"]
    alive, before = False, swarm.pieces(node)
    await swarm.fetch(("layer2",))
    total = -(-(size_of(swarm.entry.manifest, "layer2") or 0) // PIECE)
    assert swarm.pieces(node) - before == total - 12
    assert swarm.same(("layer2",))


async def test_a_cancelled_fetch_leaves_nothing_running(swarm: Swarm) -> None:
    begun = asyncio.Event()

    async def hang(question: wire.LayersAsk, answer: Answer) -> Answer:
        if isinstance(answer, Piece):
            begun.set()
            await asyncio.Event().wait()
        return answer

    await swarm.provider(hang)
    task = asyncio.create_task(swarm.fetch(("layer0",)))
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    own = {asyncio.current_task()}
    served = {task for each in swarm.providers for task in each._tasks}
    assert asyncio.all_tasks() - own - served == set()
    assert swarm.store.begin("layer0", size_of(swarm.entry.manifest, "layer0") or 0) is not None


async def test_a_stream_that_was_idle_for_too_long_costs_no_question(swarm: Swarm) -> None:
    """The peer ends it by name, and that isn't what the next question is answered with."""
    served = 0

    async def impatient(stream: Stream) -> None:
        nonlocal served
        served += 1
        _, question = wire.decode_layers_query(await stream.receive() or b"")
        assert isinstance(question, wire.HoldingsQuery)
        await stream.send(wire.encode_layers_reply(wire.Holdings(("layer0",))))
        raise DeadlineExceeded("no question in time", field="idle")

    transport = MemoryTransport(swarm.network)
    swarm.providers.append(transport)
    address = await transport.serve("127.0.0.1:0", {Method.LAYERS: impatient})
    model_id = swarm.entry.model_id
    peer = LayersPeer(swarm.transport, address, transport.identity.node_id, model_id)
    for count in (1, 2, 3):
        assert await peer.holdings() == ("layer0",)
        await asyncio.sleep(0)
        assert served == count
    await peer.close()


async def test_two_at_once_share_one_download(swarm: Swarm) -> None:
    node = await swarm.provider()
    await asyncio.gather(swarm.fetch(("layer0",)), swarm.fetch(("layer0",)))
    assert swarm.pieces(node) == -(-(size_of(swarm.entry.manifest, "layer0") or 0) // PIECE)
    assert swarm.same(("layer0",))


async def test_a_full_disk_is_named(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    await swarm.provider()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(DiskFull, match="no space left"):
        await swarm.fetch(("layer0",))
    assert swarm.store.here() == ()
