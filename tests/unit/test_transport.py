"""Both transports keep the same promises."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from hearthring.protocol.errors import (
    BadSignature,
    DeadlineExceeded,
    HearthringError,
    NoRoute,
    PeerUnreachable,
    PortInUse,
    QuotaExceeded,
    TooLarge,
    VersionMismatch,
    WrongIdentity,
)
from hearthring.protocol.grpc_transport import GrpcTransport
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.memory import MemoryNetwork, MemoryTransport
from hearthring.protocol.tasks import cancel
from hearthring.protocol.transport import Method, Stream, Transport
from tests.stage_peer import until

Make = Callable[[], Transport]


@pytest.fixture(params=["memory", "grpc"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    network, made = MemoryNetwork(), []

    def build() -> Transport:
        who = Identity.new()
        made.append(
            MemoryTransport(network, who) if request.param == "memory" else GrpcTransport(who)
        )
        return made[-1]

    yield build
    for transport in made:
        await transport.close()


async def echo(stream: Stream) -> None:
    while (data := await stream.receive()) is not None:
        await stream.send(stream.peer.encode() + b":" + data)


async def refuse(stream: Stream) -> None:
    await stream.receive()
    raise NoRoute("layers 3 to 5 are missing", field="route", mend="start a node")


async def fill(stream: Stream) -> None:
    while True:
        await stream.send(bytes(1 << 16))


async def count_then_end(stream: Stream) -> None:
    for n in range(3):
        await stream.send(bytes([n]))


async def test_handler_knows_the_caller_and_echoes(make: Make) -> None:
    server, caller = make(), make()
    address = await server.serve("127.0.0.1:0", {Method.STATUS: echo})
    stream = await caller.dial(address, server.identity.node_id, Method.STATUS)
    assert stream.peer == server.identity.node_id
    for n in range(5):
        await stream.send(b"%d" % n)
        assert await stream.receive() == caller.identity.node_id.encode() + b":%d" % n
    await stream.close()


async def test_a_named_error_arrives_whole(make: Make) -> None:
    server, caller = make(), make()
    address = await server.serve("127.0.0.1:0", {Method.STATUS: refuse})
    stream = await caller.dial(address, server.identity.node_id, Method.STATUS)
    await stream.send(b"x")
    with pytest.raises(NoRoute) as caught:
        await stream.receive()
    assert str(caught.value) == "route: layers 3 to 5 are missing (start a node)"
    with pytest.raises(HearthringError):
        await stream.receive()


async def test_a_proper_end_is_none(make: Make) -> None:
    server, caller = make(), make()
    address = await server.serve("127.0.0.1:0", {Method.STATUS: count_then_end})
    stream = await caller.dial(address, server.identity.node_id, Method.STATUS)
    assert [await stream.receive() for _ in range(4)] == [b"\0", b"\1", b"\2", None]


async def test_a_closing_server_is_an_error_not_an_end(make: Make) -> None:
    server, caller = make(), make()
    address = await server.serve("127.0.0.1:0", {Method.STATUS: echo})
    stream = await caller.dial(address, server.identity.node_id, Method.STATUS)
    await stream.send(b"x")
    await stream.receive()
    reading = asyncio.create_task(_receive(stream))
    await asyncio.sleep(0.05)
    await server.close()
    with pytest.raises(HearthringError):
        await asyncio.wait_for(reading, 10)


def _receive(stream: Stream) -> Awaitable[bytes | None]:
    return stream.receive()


async def test_a_callers_close_ends_the_handler(make: Make) -> None:
    ended = asyncio.Event()

    async def wait(stream: Stream) -> None:
        try:
            while await stream.receive() is not None:
                pass
        finally:
            ended.set()

    server, caller = make(), make()
    address = await server.serve("127.0.0.1:0", {Method.STATUS: wait})
    stream = await caller.dial(address, server.identity.node_id, Method.STATUS)
    await stream.send(b"x")
    await stream.close()
    await stream.close()
    await asyncio.wait_for(ended.wait(), 10)


async def test_nobody_there_another_there_and_port_taken(make: Make) -> None:
    server, caller, other = make(), make(), make()
    with pytest.raises(PeerUnreachable):
        await caller.dial("127.0.0.1:9", server.identity.node_id, Method.STATUS)
    address = await server.serve("127.0.0.1:0", {Method.STATUS: echo})
    with pytest.raises(WrongIdentity):
        await caller.dial(address, other.identity.node_id, Method.STATUS)
    with pytest.raises(PortInUse):
        await other.serve(address, {Method.STATUS: echo})


async def test_too_large_a_message_is_refused_before_it_is_sent(make: Make) -> None:
    server, caller = make(), make()
    address = await server.serve("127.0.0.1:0", {Method.STATUS: echo})
    stream = await caller.dial(address, server.identity.node_id, Method.STATUS)
    with pytest.raises(TooLarge):
        await stream.send(bytes(LIMITS.message_bytes + 1))
    await stream.send(bytes(LIMITS.message_bytes - 100))
    await stream.close()


async def test_a_caller_can_not_be_somebody_else() -> None:
    server, caller = GrpcTransport(Identity.new()), GrpcTransport(Identity.new())
    honest = caller.identity
    caller.identity = Identity(Identity.new().node_id, honest._key)
    address = await server.serve("127.0.0.1:0", {Method.STATUS: echo})
    try:
        stream = await caller.dial(address, server.identity.node_id, Method.STATUS)
        with pytest.raises(BadSignature):
            await stream.receive()
    finally:
        await caller.close()
        await server.close()


async def test_a_restarted_node_is_reached_although_its_certificate_is_new() -> None:
    who, caller = Identity.new(), GrpcTransport(Identity.new())
    first = GrpcTransport(who)
    address = await first.serve("127.0.0.1:0", {Method.STATUS: echo})
    await (await caller.dial(address, who.node_id, Method.STATUS)).send(b"x")
    await first.close()
    second = GrpcTransport(who)
    try:
        assert await second.serve(address, {Method.STATUS: echo}) == address
        stream = await caller.dial(address, who.node_id, Method.STATUS)
        await stream.send(b"y")
        assert (await stream.receive() or b"").endswith(b":y")
    finally:
        await caller.close()
        await second.close()


async def test_a_call_that_a_node_does_not_offer_leaves_its_other_streams_alone() -> None:
    server, caller = GrpcTransport(Identity.new()), GrpcTransport(Identity.new())
    address = await server.serve("127.0.0.1:0", {Method.STATUS: echo})
    try:
        stream = await caller.dial(address, server.identity.node_id, Method.STATUS)
        with pytest.raises(VersionMismatch):
            await caller.dial(address, server.identity.node_id, Method.CELLS)
        await stream.send(b"x")
        assert await stream.receive()
    finally:
        await caller.close()
        await server.close()


async def test_whoever_waits_for_a_channel_has_no_more_time_than_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probed = list[str]()

    async def swallow(address: str, node_id: str) -> tuple[bytes, bytes]:
        probed.append(address)
        return await asyncio.Future[tuple[bytes, bytes]]()

    smaller = replace(LIMITS, connect=0.1)
    monkeypatch.setattr("hearthring.protocol.grpc_transport.LIMITS", smaller)
    monkeypatch.setattr("hearthring.protocol.tls.probe", swallow)
    caller, node = GrpcTransport(Identity.new()), Identity.new().node_id
    dials = [caller.dial("127.0.0.1:9", node, Method.STATUS) for _ in range(3)]
    ends = await asyncio.gather(*dials, return_exceptions=True)
    assert [type(end) for end in ends] == [PeerUnreachable] * 3
    assert len(probed) == 1
    assert not caller._opening
    await caller.close()


async def test_a_peer_that_reads_too_slowly_is_named_to_who_writes_and_to_who_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hearthring.protocol.grpc_stream.LIMITS", replace(LIMITS, write=0.2))
    server, caller, over = (
        GrpcTransport(Identity.new()),
        GrpcTransport(Identity.new()),
        asyncio.Event(),
    )

    async def deaf(_: Stream) -> None:
        await over.wait()

    address = await server.serve("127.0.0.1:0", {Method.STATUS: deaf})
    stream = await caller.dial(address, server.identity.node_id, Method.STATUS)
    reading = asyncio.create_task(stream.receive())
    try:
        with pytest.raises(DeadlineExceeded, match="reader is too slow"):
            await fill(stream)
        with pytest.raises(PeerUnreachable):
            await reading
        with pytest.raises(PeerUnreachable):
            await stream.receive()
        reading = asyncio.create_task(stream.receive())
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    finally:
        over.set()
        await caller.close()
        await server.close()


async def test_few_connections_stay_open_that_nobody_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever says where others are could make a node connect to ever more places."""
    smaller = replace(LIMITS, unused=2)
    monkeypatch.setattr("hearthring.protocol.grpc_transport.LIMITS", smaller)
    server, caller = GrpcTransport(Identity.new()), GrpcTransport(Identity.new())
    address = await server.serve("0.0.0.0:0", {Method.STATUS: echo})
    port, node = address.rpartition(":")[2], server.identity.node_id
    try:
        held = await caller.dial(f"127.0.0.1:{port}", node, Method.STATUS)
        for place in range(2, 12):
            stream = await caller.dial(f"127.0.0.{place}:{port}", node, Method.STATUS)
            await stream.send(b"x")
            assert await stream.receive()
            await stream.close()
            await until(lambda: sum(way.calls for way in caller._ways.values()) == 1)
            assert len(caller._ways) <= 1 + 2 + 1
        await held.send(b"x")
        assert await held.receive()
        assert f"127.0.0.11:{port}" in [address for address, _ in caller._ways]
    finally:
        await caller.close()
        await server.close()


async def read_all(stream: Stream) -> None:
    while await stream.receive() is not None:
        pass


class Held:
    """What a handler has while it serves."""


async def test_who_does_not_read_its_end_keeps_nothing_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A peer that never reads is ended by name; that it isn't told must cost nothing."""
    smaller = replace(LIMITS, goodbye=0.1)
    monkeypatch.setattr("hearthring.protocol.grpc_transport.LIMITS", smaller)
    server, caller, held = GrpcTransport(Identity.new()), GrpcTransport(Identity.new()), list[Any]()

    async def serve(stream: Stream) -> None:
        mine = Held()
        held.append(weakref.ref(mine))
        filling = asyncio.create_task(fill(stream))
        await asyncio.wait([filling], timeout=0.3)
        await cancel([filling])
        raise QuotaExceeded("reads too slowly", field="attach")

    address = await server.serve("127.0.0.1:0", {Method.STATUS: serve})
    stream = await caller.dial(address, server.identity.node_id, Method.STATUS)
    await until(lambda: bool(held) and not server._streams)
    gc.collect()
    assert held[0]() is None
    with pytest.raises(QuotaExceeded):  # should it read after all
        await read_all(stream)
    await caller.close()
    await server.close()
