"""Sessions are opened through whoever answers, and fail only when nobody does for a while."""

import asyncio

import pytest

from hearthring.client.opening import given_up
from hearthring.client.replacement import Avoided, Spares
from hearthring.client.ring import RingSession
from hearthring.client.route import Stage
from hearthring.protocol.errors import DeadlineExceeded, NoRoute, StageFailed
from hearthring.protocol.memory import MemoryNetwork, MemoryTransport
from hearthring.protocol.messages import Opened, Probe, Progress
from hearthring.protocol.records import NodeRecord
from hearthring.protocol.transport import Method, Stream
from hearthring.protocol.wire import decode_up, encode_down
from hearthring.shards.store import ModelEntry
from tests.memory_ring import memory_swarm

IDS = {"prompt_ids": list(range(3, 20)), "max_tokens": 2, "proof": False}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def record(node: str, window: tuple[int, int], seconds: float) -> NodeRecord:
    return NodeRecord(
        node, "ab" * 32, (window,), ("127.0.0.1:1",), 1e12, fingerprint="cd" * 32,
        residual="fp16", row_seconds=seconds, free_rows=100,
    )  # fmt: skip


async def no_look(again: bool) -> list[NodeRecord]:
    raise AssertionError(f"looked, {again=}")


def test_among_nodes_that_all_failed_the_least_doubtful_are_used() -> None:
    clock = Clock()
    spares = Spares(no_look, 4, 10, Avoided(clock))
    records = [record("fast", (0, 4), 0.001), record("slow", (0, 4), 0.02)]
    names = []
    for _ in range(4):
        (stage,) = spares.route(records)
        names.append(stage.node)
        spares.avoided.add(stage.node)
    assert names == ["fast", "slow", "fast", "slow"]
    clock.now += 1e4
    assert spares.route(records)[0].node == "fast"


def test_who_has_just_failed_comes_after_who_failed_more_often_before() -> None:
    spares = Spares(no_look, 4, 10)
    records = [record("just", (0, 4), 0.001), record("before", (0, 4), 0.02)]
    for node in ("just", "before", "before", "before"):
        spares.avoided.add(node)
    assert spares.route(records)[0].node == "just"
    assert spares.route(records, frozenset({"just"}))[0].node == "before"
    assert spares.route(records[:1], frozenset({"just"}))[0].node == "just"


def test_a_route_goes_through_as_few_doubtful_nodes_as_can_be() -> None:
    spares = Spares(no_look, 4, 10)
    for node in ("left", "right"):
        spares.avoided.add(node)
    halves = [record("left", (0, 2), 0.001), record("right", (2, 4), 0.001)]
    other = record("other", (2, 4), 0.01)
    assert [stage.node for stage in spares.route([*halves, other])] == ["left", "other"]


async def test_a_dead_node_isnt_tried_for_ever_where_all_have_failed(tiny: ModelEntry) -> None:
    """Its record lives on, it is the fastest, and everybody else failed a short while ago too."""
    async with memory_swarm(tiny, (0, 4)) as swarm:
        dead = await swarm.node((0, 4), row_seconds=0.0001)
        client = swarm.client()
        client.sessions.avoided.add(swarm.nodes[0].node_id)
        client.sessions.avoided.add(dead.node_id)
        await swarm.kill(dead)
        answer = await client.generate(**IDS)  # type: ignore[arg-type]
        assert answer.route[0].node == swarm.nodes[0].node_id


async def test_a_request_waits_for_layers_that_come_back(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 2)) as swarm:
        waits: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        client = swarm.client()
        client.swarm.progress = lambda what, done, total: waits.done() or waits.set_result(what)
        asking = asyncio.create_task(client.generate(**IDS))  # type: ignore[arg-type]
        assert "[2, 4) of 4" in await waits
        late = await swarm.node((2, 4))
        assert (await asking).route[1].node == late.node_id


async def test_an_error_says_which_layers_nobody_ran(tiny: ModelEntry) -> None:
    """The dead node's record is still there, so the directory shows a whole route."""
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        await swarm.kill(swarm.nodes[1])
        with pytest.raises(NoRoute, match=r"\[2, 4\) of 4.*connection refused") as caught:
            await swarm.client(patience=0.3).generate(**IDS)  # type: ignore[arg-type]
        assert caught.value.missing == ((2, 4),)


def test_the_error_names_windows_or_says_that_there_is_no_lack() -> None:
    records = [record("a", (0, 2), 1.0), record("b", (2, 4), 1.0)]
    failure = StageFailed("no room")
    assert given_up(failure, {"b": "no room"}, records, 4, 30.0).missing == ((2, 4),)
    none = given_up(failure, {}, records, 4, 30.0)
    assert (none.missing, none.message) == ((), "no route opens, for 30 s: no room")
    missing = NoRoute("gone", missing=((1, 2),))
    assert given_up(missing, {"a": "x"}, records, 4, 30.0) is missing


async def test_who_takes_no_call_or_opens_late_is_blamed() -> None:
    network = MemoryNetwork()

    async def hang(stream: Stream) -> None:
        while await stream.receive() is not None:
            pass

    stages = []
    for start in (0, 1):
        transport = MemoryTransport(network)
        address = await transport.serve("127.0.0.1:0", {Method.ATTACH: hang})
        node = transport.identity.node_id
        stages.append(Stage(node, address, start, start + 1, "fp32", "fake", "cd" * 32))
    ring = RingSession(MemoryTransport(network), stages, "ab" * 32, "ef" * 32)
    with pytest.raises(DeadlineExceeded, match=rf"layers 1 to 2 at {stages[1].node}"):
        await ring.open(8, 0.1)
    assert ring.places.blamed == {stages[1].node}, "the one before waits for it"


async def test_who_opened_and_froze_is_blamed_and_not_who_waits_for_it() -> None:
    network, stages = MemoryNetwork(), list[Stage]()

    async def hang(stream: Stream) -> None:
        """The one before: it hears, and waits for its next one."""
        while data := await stream.receive():
            if isinstance(frame := decode_up(data), Probe):
                await stream.send(encode_down(Progress(frame.number, 0, 0)))

    async def freeze(stream: Stream) -> None:
        assert await stream.receive()
        await stream.send(encode_down(Opened("fake", 8)))
        await hang_for_good(stream)

    async def hang_for_good(stream: Stream) -> None:
        while await stream.receive() is not None:
            pass

    for start, handler in ((0, hang), (1, freeze)):
        transport = MemoryTransport(network)
        address = await transport.serve("127.0.0.1:0", {Method.ATTACH: handler})
        node = transport.identity.node_id
        stages.append(Stage(node, address, start, start + 1, "fp32", "fake", "cd" * 32))
    ring = RingSession(MemoryTransport(network), stages, "ab" * 32, "ef" * 32)
    with pytest.raises(DeadlineExceeded, match=rf"layers 1 to 2 at {stages[1].node}"):
        await ring.open(8, 0.1)
    assert ring.places.blamed == {stages[1].node}
