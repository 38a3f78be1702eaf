"""Peers that stall, die or come back, and fetches that are cancelled."""

import asyncio
import gc
import threading

import pytest

from hearthring.protocol import layers as wire
from hearthring.protocol.asking_layers import LayersPeer
from hearthring.protocol.errors import DeadlineExceeded, ModelNotHere, PeerUnreachable
from hearthring.protocol.layers import Piece
from hearthring.protocol.memory import MemoryTransport
from hearthring.protocol.transport import Method, Stream
from hearthring.shards import fetch as fetching
from hearthring.shards.layer_store import ComingPart
from hearthring.shards.parts import size_of, window_parts
from tests.providers import PIECE, Answer, Swarm, flip


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


async def test_who_has_a_part_in_hand_and_gets_nothing_is_given_up(swarm: Swarm) -> None:
    await swarm.provider()
    size = size_of(swarm.entry.manifest, "layer2") or 0
    other = swarm.store.begin("layer2", size)
    assert other is not None
    async with asyncio.timeout(20):
        with pytest.raises(ModelNotHere, match="another process has it in hand"):
            await swarm.fetch(("layer2",), patience=0.1)
    other.close()
    await swarm.fetch(("layer2",))
    assert swarm.same(("layer2",))


async def test_who_has_a_part_in_hand_and_gets_on_is_waited_for(swarm: Swarm) -> None:
    await swarm.provider()
    size = size_of(swarm.entry.manifest, "layer2") or 0
    other = swarm.store.begin("layer2", size)
    assert other is not None
    task = asyncio.create_task(swarm.fetch(("layer2",), patience=0.5))
    for _ in range(20):
        await asyncio.sleep(0.05)
        other.write(0, b"x" * PIECE)
    assert not task.done()
    other.close()
    await task
    assert swarm.same(("layer2",))


async def test_a_cancelled_fetch_waits_for_its_thread_and_the_loop_goes_on(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, in_time = threading.Event(), threading.Event(), list[bool]()

    def slow(part: ComingPart) -> bool:
        begun.set()
        in_time.append(go_on.wait(2))
        return False

    monkeypatch.setattr(ComingPart, "_finish", slow)
    await swarm.provider()
    task = asyncio.create_task(swarm.fetch(("layer0",)))
    assert await asyncio.to_thread(begun.wait, 20)
    task.cancel()
    # Were the part closed on the loop, this would come only after the thread had waited in vain.
    asyncio.get_running_loop().call_later(0.05, go_on.set)
    await asyncio.gather(task, return_exceptions=True)
    assert in_time == [True]
    assert task.cancelled()
    assert swarm.store.begin("layer0", size_of(swarm.entry.manifest, "layer0") or 0) is not None


async def test_a_part_that_was_begun_for_who_was_cancelled_is_free_again(swarm: Swarm) -> None:
    size = size_of(swarm.entry.manifest, "layer0") or 0
    first = swarm.store.begin("layer0", size)
    assert first is not None
    del first
    gc.collect()
    assert swarm.store.begin("layer0", size) is not None
