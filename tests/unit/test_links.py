"""Links: one ordered stream per peer, that ends once and tells its users why."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from hearthring.protocol import memory
from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    NoRoute,
    PeerUnreachable,
    QuotaExceeded,
    TooLarge,
    WrongIdentity,
)
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.links import Link, Links
from hearthring.protocol.memory import MemoryNetwork, MemoryTransport
from hearthring.protocol.transport import Method, Stream
from tests.stage_peer import until


class Reader:
    """A stage that takes rows when it is told to, and ends streams when it is told to."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.transport = MemoryTransport(network)
        self.streams = 0
        self.taken = asyncio.Queue[bytes | None]()
        self.reads, self.ends = asyncio.Event(), asyncio.Event()
        self.reads.set()
        self.ready = True
        self.error: HearthringError | None = None

    @property
    def node_id(self) -> str:
        return self.transport.identity.node_id

    async def start(self) -> str:
        return await self.transport.serve("127.0.0.1:0", {Method.PASS: self.take})

    async def take(self, stream: Stream) -> None:
        self.streams += 1
        if self.ready:
            await stream.send(b"")
        reading = asyncio.create_task(self.read(stream))
        await self.ends.wait()
        reading.cancel()
        if self.error is not None:
            raise self.error

    async def read(self, stream: Stream) -> None:
        data: bytes | None = b""
        while data is not None:
            await self.reads.wait()
            data = await stream.receive()
            await self.taken.put(data)


class Ends:
    """Who is told, and what."""

    def __init__(self) -> None:
        self.told: list[HearthringError] = []
        self.once = asyncio.Event()

    def __call__(self, error: HearthringError) -> None:
        self.told.append(error)
        self.once.set()


@pytest.fixture
async def network() -> MemoryNetwork:
    return MemoryNetwork()


@pytest.fixture
async def reader(network: MemoryNetwork) -> AsyncIterator[Reader]:
    reader = Reader(network)
    yield reader
    await reader.transport.close()


@pytest.fixture
async def links(network: MemoryNetwork) -> AsyncIterator[Links]:
    links = Links(MemoryTransport(network))
    yield links
    await links.close()


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def change(**changes: float) -> None:
        smaller = replace(LIMITS, **changes)  # type: ignore[arg-type]
        monkeypatch.setattr("hearthring.protocol.links.LIMITS", smaller)
        monkeypatch.setattr("hearthring.protocol.memory.LIMITS", smaller)

    return change


async def test_messages_arrive_in_the_order_they_were_posted(links: Links, reader: Reader) -> None:
    link = await links.get(await reader.start(), reader.node_id)
    sent = [n.to_bytes(2) for n in range(LIMITS.link)]
    for data in sent:
        link.post(data)
    assert [await reader.taken.get() for _ in sent] == sent


async def test_all_sessions_share_one_stream_to_a_peer(links: Links, reader: Reader) -> None:
    address = await reader.start()
    found = await asyncio.gather(*(links.get(address, reader.node_id) for _ in range(5)))
    assert len(set(found)) == reader.streams == 1


async def test_a_break_is_told_to_every_user_once_and_to_nobody_who_left(
    links: Links, reader: Reader
) -> None:
    link = await links.get(await reader.start(), reader.node_id)
    stays, other, left = Ends(), Ends(), Ends()
    link.use(stays)
    link.use(other)
    leave = link.use(left)
    leave()
    leave()
    reader.error = NoRoute("going", field="x")
    reader.ends.set()
    await stays.once.wait()
    for ends in (stays, other):
        assert [(type(e), str(e)) for e in ends.told] == [(NoRoute, "x: going")]
    assert left.told == []
    with pytest.raises(NoRoute, match="going"):
        link.post(b"x")


async def test_a_proper_end_is_a_break_too(links: Links, reader: Reader) -> None:
    link, ends = await links.get(await reader.start(), reader.node_id), Ends()
    link.use(ends)
    reader.ends.set()
    await ends.once.wait()
    assert isinstance(link.broken, PeerUnreachable)


async def test_one_user_that_fails_to_listen_keeps_nobody_uninformed(
    links: Links, reader: Reader
) -> None:
    """Users leave while they are told."""
    link, ends = await links.get(await reader.start(), reader.node_id), Ends()
    leaves: list[Callable[[], None]] = []
    for _ in range(3):
        leaves.append(link.use(lambda _: [leave() for leave in leaves]))
    link.use(ends)
    reader.ends.set()
    await ends.once.wait()
    assert len(ends.told) == 1


async def test_after_a_break_a_new_stream_is_opened(links: Links, reader: Reader) -> None:
    address, ends = await reader.start(), Ends()
    old = await links.get(address, reader.node_id)
    old.use(ends)
    reader.ends.set()
    await ends.once.wait()
    reader.ends.clear()
    new = await links.get(address, reader.node_id)
    assert new is not old
    new.post(b"again")
    while await reader.taken.get() != b"again":
        pass
    assert reader.streams == 2


async def test_a_slow_reader_ends_the_poster_not_the_link(links: Links, reader: Reader) -> None:
    reader.reads.clear()
    link = await links.get(await reader.start(), reader.node_id)
    for sent in range(LIMITS.link):
        link.post(sent.to_bytes(2))
    taken = memory._DEPTH + 1  # on the way, and in the writer's hands
    await until(lambda: len(link._queue) == LIMITS.link - taken)
    sent = LIMITS.link + taken
    for number in range(LIMITS.link, sent):
        link.post(number.to_bytes(2))
    with pytest.raises(QuotaExceeded, match="reads too slowly") as caught:
        link.post(b"one more")
    assert caught.value.field == reader.node_id
    assert link.broken is None
    reader.reads.set()
    assert [await reader.taken.get() for _ in range(sent)] == [n.to_bytes(2) for n in range(sent)]
    link.post(b"on")
    assert await reader.taken.get() == b"on"


async def test_so_many_bytes_wait_for_a_slow_reader(
    links: Links, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = replace(LIMITS, backlog_bytes=1000)
    monkeypatch.setattr("hearthring.protocol.backlog.LIMITS", smaller)
    reader.reads.clear()
    link = await links.get(await reader.start(), reader.node_id)
    sent = [n.to_bytes(100) for n in range(10)]
    for data in sent:
        link.post(data)
    with pytest.raises(QuotaExceeded, match="reads too slowly"):
        link.post(b"one more")
    reader.reads.set()
    assert [await reader.taken.get() for _ in sent] == sent
    link.post(b"on")
    assert await reader.taken.get() == b"on"


async def test_a_reader_that_blocks_a_write_too_long_breaks_the_link_and_its_stream(
    links: Links, reader: Reader, limits: Callable[..., None]
) -> None:
    limits(write=0.05)
    reader.reads.clear()
    link, ends = await links.get(await reader.start(), reader.node_id), Ends()
    link.use(ends)
    for n in range(LIMITS.link):
        link.post(n.to_bytes(2))
    await ends.once.wait()
    assert isinstance(ends.told[0], DeadlineExceeded)
    reader.reads.set()  # the stream is given up at the other side as well
    while await reader.taken.get() is not None:
        pass


async def test_a_message_over_the_limit_is_its_posters_error_alone(
    links: Links, reader: Reader
) -> None:
    link, ends = await links.get(await reader.start(), reader.node_id), Ends()
    link.use(ends)
    with pytest.raises(TooLarge, match=f"{LIMITS.message_bytes + 1} bytes"):
        link.post(bytes(LIMITS.message_bytes + 1))
    link.post(bytes(LIMITS.message_bytes))
    assert len(await reader.taken.get() or b"") == LIMITS.message_bytes
    assert ends.told == []


async def test_a_peer_that_does_not_get_ready_is_named(
    links: Links, reader: Reader, limits: Callable[..., None]
) -> None:
    limits(connect=0.05)
    reader.ready = False
    address = await reader.start()
    with pytest.raises(DeadlineExceeded, match="doesn't take rows in time"):
        await links.get(address, reader.node_id)
    reader.ends.set()
    with pytest.raises(PeerUnreachable, match="takes no rows"):
        await links.get(address, reader.node_id)
    reader.error = NoRoute("no")
    with pytest.raises(NoRoute):
        await links.get(address, reader.node_id)


async def test_a_peer_that_is_not_there_or_is_somebody_else_is_named(
    links: Links, reader: Reader
) -> None:
    address = await reader.start()
    with pytest.raises(WrongIdentity):
        await links.get(address, Identity.new().node_id)
    with pytest.raises(PeerUnreachable):
        await links.get("127.0.0.1:9999", reader.node_id)


async def test_closing_ends_the_streams_and_tells_nobody(links: Links, reader: Reader) -> None:
    link, ends = await links.get(await reader.start(), reader.node_id), Ends()
    link.use(ends)
    await links.close()
    assert await reader.taken.get() is None
    assert ends.told == []
    assert isinstance(link, Link)


async def test_nothing_is_remembered_of_who_was_not_there_or_has_gone(
    links: Links, reader: Reader
) -> None:
    for port in range(1, 9):
        with pytest.raises(PeerUnreachable):
            await links.get(f"127.0.0.1:{port}", Identity.new().node_id)
    assert not links._opening
    link, ends = await links.get(await reader.start(), reader.node_id), Ends()
    link.use(ends)
    reader.ends.set()
    await ends.once.wait()
    other = Reader(reader.transport._network)
    await links.get(await other.start(), other.node_id)
    assert [one.node_id for one in links._links.values()] == [other.node_id]
    await other.transport.close()


async def test_few_links_stay_open_that_nobody_uses(
    links: Links, reader: Reader, limits: Callable[..., None]
) -> None:
    """Clients say where the next stage is: they could name ever more places."""
    limits(unused=2)
    first, ends = await links.get(await reader.start(), reader.node_id), Ends()
    leave = first.use(ends)
    others = [Reader(reader.transport._network) for _ in range(6)]
    for other in others:
        await links.get(await other.start(), other.node_id)
        assert len(links._links) <= 1 + 2 + 1
    first.post(b"x")
    assert await reader.taken.get() == b"x"
    for other in others[:3]:
        assert await other.taken.get() is None  # its stream was ended properly
    leave()
    for other in others[:3]:
        other.reads.set()
        await links.get(other.transport._address, other.node_id)
    assert first not in links._links.values()
    assert ends.told == []
    for other in others:
        await other.transport.close()
