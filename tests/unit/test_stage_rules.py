"""A stage and a peer that breaks the rules: its session ends by name, and no other."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hearthring.protocol.errors import (
    BadInvitation,
    BadShape,
    BadSignature,
    DeadlineExceeded,
    HearthringError,
    LayersOutOfRange,
    Malformed,
    NonFinite,
    OutOfOrder,
    OutOfSlots,
    PeerUnreachable,
    QuotaExceeded,
    ResidualOverflow,
    StageFailed,
    TooLarge,
    UnknownRow,
    WrongClass,
    WrongIdentity,
)
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import (
    GENERATED,
    PROMPT,
    ROOT,
    Cancel,
    EvidenceQuery,
    Finish,
    HopTime,
    Probe,
    Progress,
    Reroute,
    Rerouted,
    Row,
    Step,
    Tap,
    Trouble,
)
from hearthring.protocol.tasks import cancel
from hearthring.protocol.tensors import F32, Residual, pack
from hearthring.protocol.transport import Method, Stream
from hearthring.protocol.wire import encode_step, encode_up
from hearthring.shards.torch_engine import TorchEngine
from hearthring.verify.claims import proven_rows
from hearthring.verify.rowhash import chunk_roots, row_hashes
from tests.stage_peer import (
    MODEL,
    ROW_BYTES,
    SENDERS_CLASS,
    WIDTH,
    WINDOW,
    Peer,
    Rig,
    alone,
    chain,
    honest_beside,
    rig,
    states_of,
    tiny_engine,
    until,
)

BEGUN = chain(1, 3, ROOT)
"""What a hostile session has run before it turns hostile."""
NEXT = chain(4, 1, 3, GENERATED)


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path) -> TorchEngine:
    return tiny_engine(tiny_gguf)


@pytest.fixture
async def stage(engine: TorchEngine) -> AsyncIterator[Rig]:
    async with rig(engine) as stage:
        yield stage


def limited(monkeypatch: pytest.MonkeyPatch, module: str, **changes: float) -> None:
    smaller = replace(LIMITS, **changes)  # type: ignore[arg-type]
    monkeypatch.setattr(f"hearthring.node.{module}.LIMITS", smaller)


def wire(states: F32) -> bytes:
    return np.asarray(states, "<f4").tobytes()


def with_value(value: float) -> bytes:
    states = states_of([4])
    states[0, WIDTH // 2] = value
    return wire(states)


def resigned(peer: Peer, **changes: Any) -> Step:
    """The next step with other contents, as signed as can be."""
    return peer.signed(replace(peer.step(NEXT), **changes))


def numbered(peer: Peer, step_id: int) -> Step:
    return resigned(peer, step_id=step_id)


Wrong = Callable[[Peer], Step]
STEPS: dict[str, tuple[type[HearthringError], str, Wrong]] = {
    "no signature": (BadSignature, "signature", lambda p: p.step(NEXT, signature=b"")),
    "zeros for a signature": (
        BadSignature,
        "signature",
        lambda p: p.step(NEXT, signature=bytes(64)),
    ),
    "somebody else's signature": (
        BadSignature,
        "signature",
        lambda p: p.signed(p.step(NEXT), Identity.new()),
    ),
    "a signature of other states": (
        BadSignature,
        "signature",
        lambda p: replace(p.step(NEXT), states=wire(states_of([5]))),
    ),
    "a signature of another step": (
        BadSignature,
        "signature",
        lambda p: replace(p.step(NEXT), signature=p.signed(p.step(NEXT)).signature, step_id=2),
    ),
    "a signature of another id": (
        BadSignature,
        "signature",
        lambda p: replace(p.step(NEXT), rows=(replace(NEXT[0], id=5),)),
    ),
    "a signature of another position": (
        BadSignature,
        "signature",
        lambda p: replace(p.step(NEXT), rows=(replace(NEXT[0], position=4),)),
    ),
    "a signature of another kind": (
        BadSignature,
        "signature",
        lambda p: replace(p.step(NEXT), rows=(replace(NEXT[0], kind=PROMPT),)),
    ),
    "a later epoch": (OutOfOrder, "step.epoch", lambda p: resigned(p, epoch=1)),
    "a step again": (OutOfOrder, "step.step_id", lambda p: numbered(p, 1)),
    "a step left out": (OutOfOrder, "step.step_id", lambda p: numbered(p, 3)),
    "step zero": (OutOfOrder, "step.step_id", lambda p: numbered(p, 0)),
    "an id again": (OutOfOrder, "id", lambda p: p.step([Row(3, 2, 2, GENERATED)])),
    "a smaller id": (OutOfOrder, "id", lambda p: p.step([Row(6, 3, 3, 2), Row(5, 3, 3, 2)])),
    "an id twice": (OutOfOrder, "id", lambda p: p.step([Row(4, 3, 3, 2)] * 2)),
    "a parent never seen": (UnknownRow, "parent", lambda p: p.step([Row(9, 8, 3, 2)])),
    "a position too far": (OutOfOrder, "position", lambda p: p.step([Row(4, 3, 4, 2)])),
    "the parent's position": (OutOfOrder, "position", lambda p: p.step([Row(4, 3, 2, 2)])),
    "a root not at the start": (OutOfOrder, "position", lambda p: p.step([Row(4, 0, 3, 2)])),
    "the largest position": (OutOfOrder, "position", lambda p: p.step([Row(4, 3, 2**32 - 1, 2)])),
    "a NaN": (NonFinite, "states", lambda p: resigned(p, states=with_value(np.nan))),
    "an infinity": (NonFinite, "states", lambda p: resigned(p, states=with_value(-np.inf))),
    "states too short": (BadShape, "states", lambda p: resigned(p, states=with_value(0)[:-1])),
    "states too long": (BadShape, "states", lambda p: resigned(p, states=with_value(0) + b"\0")),
    "a row too many": (BadShape, "states", lambda p: resigned(p, states=with_value(0) * 2)),
    "no states": (BadShape, "states", lambda p: resigned(p, states=b"")),
    "states without rows": (BadShape, "states", lambda p: resigned(p, rows=())),
    "states in another type": (
        BadShape,
        "states",
        lambda p: resigned(p, states=pack(states_of([4]), Residual.FP16)),
    ),
    "states of a dead row": (BadShape, "states", lambda p: resigned(p, dead=(4,))),
    "a dead row of another step": (Malformed, "step.dead", lambda p: p.step(NEXT, dead=(2,))),
    "a commit of a row never seen": (UnknownRow, "commit", lambda p: p.step(NEXT, commit=(9,))),
    "a commit of a row that comes with it": (
        UnknownRow,
        "commit",
        lambda p: p.step(NEXT, commit=(1, 2, 3, 4)),
    ),
    "a commit with a gap": (OutOfOrder, "commit", lambda p: p.step(NEXT, commit=(1, 3))),
    "a commit that starts late": (OutOfOrder, "commit", lambda p: p.step(NEXT, commit=(2,))),
    "a drop of a row never seen": (UnknownRow, "step.drop", lambda p: p.step(NEXT, drop=(9,))),
    "a drop of a row that comes with it": (
        UnknownRow,
        "step.drop",
        lambda p: p.step(NEXT, drop=(4,)),
    ),
    "a drop of the root": (UnknownRow, "drop", lambda p: p.step(NEXT, drop=(0,))),
    "a child of a dropped row's place": (
        UnknownRow,
        "commit",
        lambda p: p.step([Row(4, 2, 2, 2)], drop=(3,), commit=(1, 2, 3, 4)),
    ),
    "more rows than it asked for": (OutOfSlots, "rows", lambda p: p.step(chain(4, 62, 3))),
    "stages without end": (
        TooLarge,
        "step.times",
        lambda p: p.step(NEXT, times=(HopTime(0, 0),) * LIMITS.hops),
    ),
}


@pytest.mark.parametrize("name", STEPS)
async def test_a_wrong_step_ends_its_session_alone(stage: Rig, name: str) -> None:
    error, field, make = STEPS[name]
    async with honest_beside(stage):
        peer = await stage.open()
        assert len(await peer.run(BEGUN)) == 3
        wrong = make(peer)
        await peer.post(
            replace(wrong, step_id=2) if name == "a signature of another step" else wrong
        )
        await peer.refused(error, field)
        await stage.settled(1)


async def test_after_its_end_a_sessions_rows_are_nobodys(stage: Rig) -> None:
    """Steps that were under way when the session failed neither run nor harm."""
    async with honest_beside(stage):
        peer = await stage.open()
        for _ in range(5):
            await peer.send(NEXT, signature=b"")
        await peer.refused(BadSignature, "signature")
        ran = len(stage.engine.batches)
        again = await stage.open(peer.transport)  # the peer itself is welcome
        await peer.send(BEGUN)
        assert len(await again.run(BEGUN)) == 3
        assert len(stage.engine.batches) == ran + 1
        await again.leave()


OPENS: dict[str, tuple[type[HearthringError], str, dict[str, Any]]] = {
    "no rows": (BadShape, "open.max_rows", {"max_rows": 0}),
    "more rows than there are": (QuotaExceeded, "open.max_rows", {"max_rows": 10_000}),
    "rows without end": (QuotaExceeded, "open.max_rows", {"max_rows": 2**32 - 1}),
    "another model": (LayersOutOfRange, "open.model_id", {"model_id": "ba" * 32}),
    "a model that is none": (BadShape, "open.model_id", {"model_id": "ab" * 31 + "zz"}),
    "a model in capitals": (BadShape, "open.model_id", {"model_id": "AB" * 32}),
    "layers before": (LayersOutOfRange, "open.start", {"start": 0}),
    "layers beyond": (LayersOutOfRange, "open.start", {"end": 4}),
    "no layers": (LayersOutOfRange, "open.start", {"start": 2, "end": 2}),
    "layers backwards": (LayersOutOfRange, "open.start", {"start": 2, "end": 1}),
    "another residual type": (WrongClass, "open.residual", {"residual": "fp16"}),
    "a residual type that is none": (WrongClass, "open.residual", {"residual": "int4"}),
    "another class": (WrongClass, "open.fingerprint", {"fingerprint": "ef" * 32}),
    "a class that is none": (BadShape, "open.fingerprint", {"fingerprint": ""}),
    "a sender's class that is none": (
        BadShape,
        "open.previous_fingerprint",
        {"previous_fingerprint": "xy"},
    ),
    "a sender that is nobody": (Malformed, "node id", {"previous": "me"}),
    "a next stage that is nobody": (Malformed, "node id", {"next": ""}),
    "a tap before the window": (LayersOutOfRange, "open.taps", {"taps": (1,)}),
    "a tap after the window": (LayersOutOfRange, "open.taps", {"taps": (2, 4)}),
    "no address for the next stage": (
        BadInvitation,
        "open.next_address",
        {"next": Identity.new().node_id},
    ),
}


@pytest.mark.parametrize("name", OPENS)
async def test_a_wish_that_can_not_be_met_is_refused_by_name(stage: Rig, name: str) -> None:
    error, field, changes = OPENS[name]
    async with honest_beside(stage):
        peer = await stage.attach(**changes)
        await peer.refused(error, field)
        await stage.settled(1)


async def test_a_next_stage_that_can_not_be_reached_is_said(stage: Rig) -> None:
    """It isn't this stage's fault: the client chooses another next one."""
    async with honest_beside(stage):
        for address, error in (("127.0.0.1:9999", PeerUnreachable), (stage.address, WrongIdentity)):
            other = Identity.new().node_id
            peer = await stage.attach(next=other, next_address=address)
            said = await peer.hear()
            assert isinstance(said, Trouble)
            assert (said.epoch, said.node, type(said.error)) == (0, other, error)
            await peer.leave()


async def test_a_later_epoch_does_not_wait_for_the_link_of_an_earlier_one(stage: Rig) -> None:
    """The next stage takes the call and says nothing: the client is heard nevertheless."""
    silent = stage.client()

    async def hold(stream: Stream) -> None:
        await asyncio.Event().wait()

    address = await silent.serve("127.0.0.1:0", {Method.PASS: hold})
    async with honest_beside(stage):
        peer = await stage.open()
        assert len(await peer.run(BEGUN)) == 3
        me, rows = peer.who.node_id, (1, 2, 3)
        links = (me, SENDERS_CLASS, silent.identity.node_id, address)
        await peer.say(Reroute(1, *links, (), rows))
        await peer.say(Probe(1))
        assert await peer.hear() == Progress(1, 1, 0)
        await peer.say(Reroute(2, me, SENDERS_CLASS, me, "", (), rows))
        assert await peer.hear() == Rerouted(2, 3)
        await peer.leave()
    await silent.close()


async def test_a_session_opens_once(stage: Rig) -> None:
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.say(peer.wish)
        await peer.refused(Malformed, "attach")


async def test_a_session_that_is_open_can_not_be_taken_over(stage: Rig) -> None:
    async with honest_beside(stage) as honest:
        thief = await stage.attach(session=honest.wish.session)
        await thief.refused(QuotaExceeded, "open.session")


@pytest.mark.parametrize(
    "frame", [Cancel((1,)), Finish(0), EvidenceQuery()], ids=lambda f: type(f).__name__
)
async def test_the_first_frame_must_open(stage: Rig, frame: Any) -> None:
    async with honest_beside(stage):
        transport = stage.client()
        attach = await transport.dial(stage.address, stage.node_id, Method.ATTACH)
        await attach.send(encode_up(frame))
        with pytest.raises(Malformed, match="the first frame must open a session"):
            await attach.receive()


async def test_frames_that_do_not_decode_end_their_stream(stage: Rig) -> None:
    async with honest_beside(stage):
        attach = await stage.client().dial(stage.address, stage.node_id, Method.ATTACH)
        await attach.send(b"\xff")
        with pytest.raises(Malformed, match="doesn't decode"):
            await attach.receive()
        peer = await stage.open()
        await peer.attach.send(b"\xff")
        await peer.refused(Malformed, "AttachUp")


async def test_a_caller_that_never_opens_is_sent_away(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, "stage", hello=0.02)
    attach = await stage.client().dial(stage.address, stage.node_id, Method.ATTACH)
    with pytest.raises(DeadlineExceeded, match="nothing was asked for in time"):
        await attach.receive()


async def test_one_peer_may_hold_so_many_sessions(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, "places", sessions_per_peer=2)
    async with honest_beside(stage):
        greedy = stage.client()
        held = [await stage.open(greedy) for _ in range(2)]
        await (await stage.attach(greedy)).refused(QuotaExceeded, "sessions per peer")
        other = await stage.open()
        await held[0].leave()
        await stage.settled(3)
        again = await stage.open(greedy)
        for peer in (held[1], other, again):
            assert len(await peer.run(BEGUN)) == 3
            await peer.leave()
        await stage.settled(1)


async def test_one_peers_keys_and_values_may_take_so_many_bytes(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = WINDOW[1] - WINDOW[0]
    limited(monkeypatch, "places", kv_bytes_per_peer=100 * layers * ROW_BYTES)
    async with honest_beside(stage):
        greedy, field = stage.client(), "KV bytes per peer"
        await (await stage.attach(greedy, max_rows=101)).refused(QuotaExceeded, field)
        first = await stage.open(greedy, max_rows=60)
        await (await stage.attach(greedy, max_rows=41)).refused(QuotaExceeded, field)
        other, second = await stage.open(max_rows=60), await stage.open(greedy, max_rows=40)
        await first.leave()
        await stage.settled(3)
        again = await stage.open(greedy, max_rows=60)
        for peer in (other, second, again):
            assert len(await peer.run(BEGUN)) == 3
            await peer.leave()
        await stage.settled(1)


async def test_all_peers_together_may_hold_so_many_sessions(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, "places", sessions=2)
    async with honest_beside(stage):
        peer = await stage.open()
        await (await stage.attach()).refused(QuotaExceeded, "sessions")
        await peer.leave()
        await stage.settled(1)


async def test_rows_are_lent_and_come_back(stage: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, "places", session_rows=800)
    async with honest_beside(stage) as honest:
        left = stage.kv_rows - honest.wish.max_rows
        await (await stage.attach(max_rows=801)).refused(QuotaExceeded, "open.max_rows")
        peer = await stage.open(max_rows=800)
        assert stage.stage.free_rows == left - 800
        await (await stage.attach(max_rows=left - 799)).refused(QuotaExceeded, "open.max_rows")
        await peer.send(BEGUN, signature=b"")
        await peer.refused(BadSignature, "signature")
        await stage.settled(1)
        assert stage.stage.free_rows == left


async def test_rows_for_nobody_and_for_somebody_else_are_passed_over(stage: Rig) -> None:
    """The stream goes on: it may carry sessions whose clients know nothing of it."""
    async with honest_beside(stage) as honest:
        peer = await stage.open()
        await peer.post(peer.signed(replace(peer.step(BEGUN), session=bytes(16))))
        theft = peer.signed(replace(peer.step(BEGUN), session=honest.wish.session, step_id=3))
        await peer.post(theft)
        peer.next_step = 1
        assert len(await peer.run(BEGUN)) == 3
        await peer.leave()
        await stage.settled(1)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        encode_step(Step(bytes(15), 0, 1)),
        encode_step(Step(bytes(16), 0, 1, (Row(1, 0, 0, 3),))),
        encode_step(Step(bytes(16), 0, 1, (Row(1, 1, 0, 1),))),
        encode_step(Step(bytes(16), 0, 1, tuple(chain(1, LIMITS.rows_per_step + 1, 0)))),
    ],
)
async def test_a_step_that_no_stage_would_send_ends_the_stream_it_came_on(
    stage: Rig, data: bytes
) -> None:
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.rows.send(data)
        with pytest.raises((Malformed, TooLarge)):
            await peer.rows.receive()
        await peer.leave()
        await stage.settled(1)


async def test_a_stage_passes_on_nothing_that_the_next_would_refuse(
    engine: TorchEngine, stage: Rig
) -> None:
    """All sessions share the stream between two stages: whoever breaks it breaks them all."""
    async with rig(engine, make=stage.make) as after:
        route = {"next": after.node_id, "next_address": after.address}
        taken_from = {
            "previous": stage.node_id,
            "previous_fingerprint": engine.numerics.fingerprint,
        }
        honest = await after.open(start=2, **taken_from)
        first = await stage.open(honest.transport, session=honest.wish.session, end=2, **route)

        async def through(rows: Sequence[Row]) -> int:
            await first.send(rows)
            return len((await honest.result()).live)

        assert await through(chain(1, 3, ROOT)) == 3

        # Where it leads, the session is open in another's name.
        hostile = await after.open()
        same = await stage.open(hostile.transport, session=hostile.wish.session, end=2, **route)
        await same.send(BEGUN)
        assert await through(chain(4, 1, 3)) == 1

        # With its own hop time, the step has more than a step may have.
        tall = await stage.open(end=2, **route)
        await tall.send(BEGUN, times=(HopTime(0, 0),) * LIMITS.hops)
        await tall.refused(TooLarge, "step.times")
        assert await through(chain(5, 1, 4)) == 1
        for peer in (same, hostile, honest, first):
            await peer.leave()


async def test_a_sender_can_not_flood_a_stage(stage: Rig) -> None:
    async with honest_beside(stage):
        peer = await stage.open()
        stage.engine.gate.clear()
        for _ in range(LIMITS.steps_in_flight + 2):
            await peer.send()
        await peer.refused(QuotaExceeded, "steps in flight")
        stage.engine.gate.set()
        await stage.settled(1)


async def test_as_many_steps_as_are_allowed_may_wait(stage: Rig) -> None:
    async with honest_beside(stage):
        peer = await stage.open()
        stage.engine.gate.clear()
        for _ in range(LIMITS.steps_in_flight):
            await peer.send()
        stage.engine.gate.set()
        for n in range(LIMITS.steps_in_flight):
            assert (await peer.result()).step_id == n + 1
        await peer.leave()
        await stage.settled(1)


async def test_a_client_that_does_not_read_is_ended(stage: Rig) -> None:
    async with honest_beside(stage):
        peer = await stage.open()

        async def ask_on() -> None:
            while True:
                await peer.say(EvidenceQuery())

        asking = asyncio.create_task(ask_on())
        await stage.settled(1)
        await cancel([asking])
        await peer.refused(QuotaExceeded, "attach")


async def test_a_session_without_steps_loses_its_lease(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, "stage", idle=0.05)
    peer = await stage.open()
    await peer.refused(DeadlineExceeded, "lease")
    await stage.settled(0)
    assert stage.stage.free_rows == stage.kv_rows


async def test_a_finish_for_a_step_that_never_comes_is_named(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, "stage", receipt=0.05)
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.run(BEGUN)
        await peer.say(Finish(2, ()))
        error = await peer.refused(DeadlineExceeded, "finish")
        assert "step 2 never arrived" in str(error)


@pytest.mark.parametrize(
    ("commit", "error"), [((9,), UnknownRow), ((2,), OutOfOrder), ((1, 3), OutOfOrder)]
)
async def test_a_finish_that_commits_what_it_can_not_is_named(
    stage: Rig, commit: tuple[int, ...], error: type[HearthringError]
) -> None:
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.run(BEGUN)
        await peer.say(Finish(1, commit))
        await peer.refused(error, "commit")


async def test_a_finish_may_overtake_its_last_step(stage: Rig) -> None:
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.say(Finish(1, (1, 2, 3)))
        assert len(await peer.run(BEGUN)) == 3
        receipt = await peer.hear()
        assert type(receipt).__name__ == "Receipt"
        await peer.leave()
        await stage.settled(1)


async def test_an_engines_failure_ends_the_session_that_caused_it(stage: Rig) -> None:
    """Both run in one batch; the other's rows run again without it."""

    def fail(states: F32) -> None:
        if np.abs(states).max() > 1e30:
            raise ResidualOverflow("too large", field="residual")

    stage.engine.fail = fail
    async with honest_beside(stage):
        first, peer, other = [await stage.open() for _ in range(3)]
        stage.engine.gate.clear()
        await first.send(BEGUN)  # holds the engine up until both others wait
        await until(lambda: stage.engine.held)
        await peer.send(BEGUN, states=wire(states_of([1, 2, 3]) * np.float32(1e32)))
        await other.send(BEGUN)
        await until(lambda: len(stage.stage._queue) == 2)
        stage.engine.gate.set()
        await peer.refused(ResidualOverflow, "residual")
        for good in (first, other):
            step = await good.result()
            assert len(step.live) == 3
            await good.leave()
        assert 2 in stage.engine.batches
        await stage.settled(1)


async def test_a_fault_of_the_node_itself_ends_the_batch_and_not_the_node(
    stage: Rig, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(_: F32) -> None:
        raise ZeroDivisionError

    async with honest_beside(stage):
        peer = await stage.open()
        stage.engine.fail = fail
        await peer.send(BEGUN)
        await peer.refused(StageFailed, "engine")
        stage.engine.fail = lambda _: None
    assert "ZeroDivisionError" in capfd.readouterr().err


# -- cancel, drop, trees -------------------------------------------------------------------------


async def test_cancelled_rows_yield_empty_results_and_no_gap(stage: Rig) -> None:
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.say(Cancel((3, 70)))
        await peer.evidence()  # the cancellation is in
        first = await _step(peer, [*chain(1, 4, ROOT), Row(5, 2, 2, GENERATED)])
        assert [row.id for row in first.rows] == [1, 2, 3, 4, 5]
        assert first.dead == (3, 4)
        lines = [*chain(1, 2, ROOT), Row(5, 2, 2, GENERATED), Row(7, 5, 3, GENERATED)]
        expected = alone(stage.engine.honest, lines)
        assert first.states == b"".join(expected[:3])
        # A child of a dead row is dead as well; one of a live row isn't.
        second = await _step(peer, [Row(6, 4, 4, GENERATED), Row(7, 5, 3, GENERATED)])
        assert (second.step_id, second.dead, second.states) == (2, (6,), expected[3])
        # So it stays after the ordered drop, and a row never seen is an error all the same.
        third = await _step(peer, [Row(8, 3, 3, GENERATED)], drop=(3,))
        assert (third.dead, third.states) == ((8,), b"")
        assert (await peer.finish((1, 2, 5, 7))).rows == 4
        await peer.send([Row(10, 9, 4, GENERATED)])
        await peer.refused(UnknownRow, "parent")


async def _step(peer: Peer, rows: Sequence[Row], **changes: Any) -> Step:
    await peer.send(rows, **changes)
    return await peer.result()


async def test_a_cancellation_during_a_step_is_not_forgotten(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come at any moment: here, while others are being worked in."""
    peer = await stage.open()
    place = stage.stage._places.find(peer.wish.session, peer.wish.start)
    assert place is not None
    session = place.session
    work_in = session._slots.cancel

    def meanwhile(ids: Sequence[int]) -> None:
        monkeypatch.undo()
        session.cancel((5,))
        work_in(ids)

    monkeypatch.setattr(type(session._slots), "cancel", lambda _, ids: meanwhile(ids))
    await peer.say(Cancel((4,)))
    await peer.evidence()
    await peer.run(BEGUN)
    step = await _step(peer, [Row(4, 3, 3, 2), Row(5, 3, 3, 2), Row(6, 3, 3, 2)])
    assert step.dead == (4, 5)


async def test_a_row_that_was_dropped_before_it_came_is_refused(stage: Rig) -> None:
    """A cancellation makes room for such a drop, and nothing may be left in between."""
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.say(Cancel((4,)))
        await peer.evidence()
        await peer.run(BEGUN)
        await peer.send(NEXT, drop=(4,))
        await peer.refused(UnknownRow, "step.drop")


async def test_what_was_dropped_might_as_well_never_have_been(stage: Rig) -> None:
    prompt, right = chain(1, 5, ROOT), chain(20, 3, 5, GENERATED)
    wrong = [*chain(6, 4, 5, GENERATED), *chain(10, 2, 7, GENERATED, at=7)]
    async with honest_beside(stage):
        plain = await stage.open()
        await plain.run(prompt)
        expected = [await plain.run([row]) for row in right]
        peer = await stage.open()
        await peer.run(prompt)
        await peer.run(wrong)
        got = [await peer.run(right[:1], commit=range_of(prompt), drop=(6,))]
        got += [await peer.run([row]) for row in right[1:]]
        assert got == expected
        assert [b for step in got for b in step.values()] == alone(
            stage.engine.honest, [*prompt, *right]
        )[5:]
        mine, theirs = [
            await p.finish((*range_of(prompt), *range_of(right))) for p in (peer, plain)
        ]
        assert mine.in_roots == theirs.in_roots
        assert mine.out_roots == theirs.out_roots
        assert mine.digests == theirs.digests
        for one in (peer, plain):
            await one.leave()
        await stage.settled(1)


def range_of(rows: Sequence[Row]) -> tuple[int, ...]:
    return tuple(row.id for row in rows)


async def test_committed_rows_may_be_rolled_back(stage: Rig) -> None:
    prompt, wrong, right = chain(1, 4, ROOT), chain(5, 3, 4, GENERATED), chain(8, 2, 4, GENERATED)
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.run(prompt)
        await peer.run(wrong, commit=range_of(prompt))
        await peer.run(commit=range_of(wrong))
        got = await peer.run(right, drop=(5,))
        assert list(got.values()) == alone(stage.engine.honest, [*prompt, *right])[4:]
        assert (await peer.finish(range_of(right))).rows == 6
        await peer.leave()
        await stage.settled(1)


@pytest.mark.parametrize("together", [True, False])
async def test_every_branch_of_a_tree_equals_it_alone(stage: Rig, together: bool) -> None:
    prompt = chain(1, 3, ROOT)
    left = [Row(n, p, at, GENERATED) for n, p, at in ((4, 3, 3), (6, 4, 4), (8, 6, 5))]
    right = [Row(n, p, at, GENERATED) for n, p, at in ((5, 3, 3), (7, 5, 4), (9, 7, 5))]
    tree = sorted(left + right, key=lambda row: row.id)
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.run(prompt)
        if together:
            got = await peer.run(tree)
        else:
            got = {}
            for row in tree:
                got |= await peer.run([row])
        for branch in (left, right):
            expected = alone(stage.engine.honest, [*prompt, *branch])[3:]
            assert [got[row.id] for row in branch] == expected
        # The branch that is kept goes on as if the other had never been.
        on = await peer.run(chain(10, 1, 9, GENERATED, at=6), commit=(1, 2, 3, 5, 7), drop=(4,))
        path = [*prompt, *right, Row(10, 9, 6, GENERATED)]
        assert on[10] == alone(stage.engine.honest, path)[-1]
        body = await peer.finish((9, 10))
        hashes = row_hashes(
            bytes.fromhex(MODEL),
            bytes.fromhex(stage.engine.numerics.fingerprint),
            WINDOW[1],
            [row.kind for row in path],
            [row.position for row in path],
            b"".join(alone(stage.engine.honest, path)),
            len(path),
        )
        assert body.out_roots == tuple(chunk_roots(range(len(path)), hashes))
        await peer.leave()
        await stage.settled(1)


async def test_evidence_is_what_the_sender_signed(stage: Rig) -> None:
    peer = await stage.open()
    steps = [peer.step(BEGUN), peer.step(), peer.step([*NEXT, Row(5, 3, 3, GENERATED)], drop=(2,))]
    for step in steps:
        await peer.post(step)
        await peer.result()
    evidence = await peer.evidence()
    assert [(s.step_id, s.ids, s.signature) for s in evidence.received] == [
        (step.step_id, range_of(step.rows), step.signature) for step in steps
    ]
    proven = proven_rows(evidence, peer.wish.session, peer.who.node_id, WINDOW[0])
    rows = [row for step in steps for row in step.rows]
    hashes = row_hashes(
        bytes.fromhex(MODEL),
        bytes.fromhex(SENDERS_CLASS),
        WINDOW[0],
        [row.kind for row in rows],
        [row.position for row in rows],
        pack(states_of(row.id for row in rows), Residual.FP32),
        len(rows),
    )
    assert proven == {row.id: (digest,) for row, digest in zip(rows, hashes, strict=True)}
    assert proven_rows(evidence, bytes(16), peer.who.node_id, WINDOW[0]) == {}


async def test_taps_show_the_residual_inside_the_window(stage: Rig, engine: TorchEngine) -> None:
    async with honest_beside(stage):
        peer = await stage.open(taps=(2, 3))
        await peer.send(BEGUN)
        taps = [await peer.hear(), await peer.hear()]
        assert [(t.boundary, t.ids) for t in taps if isinstance(t, Tap)] == [
            (2, (1, 2, 3)),
            (3, (1, 2, 3)),
        ]
        result = await peer.result()
        assert taps[1].states == result.states != taps[0].states  # type: ignore[union-attr]
        part = await stage.open(start=1, end=2)
        assert b"".join((await part.run(BEGUN)).values()) == taps[0].states  # type: ignore[union-attr]
        for one in (peer, part):
            await one.leave()
        await stage.settled(1)


async def test_a_step_that_wants_no_output_gets_none(stage: Rig) -> None:
    peer = await stage.open()
    await peer.send(BEGUN, want_output=False)
    step = await _step(peer, NEXT)
    assert step.step_id == 2
    assert step.states == alone(stage.engine.honest, [*BEGUN, *NEXT])[3]


async def test_a_closing_node_tells_its_clients(stage: Rig) -> None:
    peer = await stage.open()
    await stage.stage.close()
    await peer.refused(StageFailed, stage.node_id)
