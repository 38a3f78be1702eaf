"""How sessions end: receipts, failures of the engine, a node that closes; and what is kept."""

import asyncio

import numpy as np
import pytest

from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    OutOfOrder,
    ResidualOverflow,
    StageFailed,
    UnknownRow,
)
from hearthring.protocol.messages import (
    GENERATED,
    Finish,
    Receipt,
    Reroute,
    Rerouted,
    Row,
    Tap,
)
from hearthring.protocol.tensors import F32, Residual, pack
from hearthring.shards.torch_engine import TorchEngine
from hearthring.verify.claims import proven_rows
from hearthring.verify.rowhash import row_hashes
from tests.stage_peer import (
    BEGUN,
    MODEL,
    NEXT,
    SENDERS_CLASS,
    WINDOW,
    Rig,
    honest_beside,
    ids_of,
    limited,
    outputs_of,
    states_of,
    until,
    wire,
)


async def test_a_finish_for_a_step_that_never_comes_is_named(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, "sign_off", receipt=0.05)
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.run(BEGUN)
        await peer.say(Finish(2, ()))
        error = await peer.refused(DeadlineExceeded, "finish")
        assert "step 2 never arrived" in str(error)


async def test_a_step_that_waits_for_the_engine_is_waited_for_at_the_end(
    stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, "sign_off", receipt=0.05)
    async with honest_beside(stage):
        peer = await stage.open()
        stage.engine.gate.clear()
        await peer.send(BEGUN)
        await until(lambda: stage.engine.held)
        await peer.say(Finish(1, ids_of(BEGUN)))
        await asyncio.sleep(0.2)
        stage.engine.gate.set()
        assert len(outputs_of(await peer.result())) == len(BEGUN)
        assert isinstance(await peer.hear(), Receipt)
        await peer.leave()
        await stage.settled(1)


async def test_a_finish_that_waits_keeps_no_new_epoch_out(stage: Rig) -> None:
    """Its step was lost with the stage before, and the client finishes again in the next epoch."""
    async with honest_beside(stage):
        peer = await stage.open()
        await peer.run(BEGUN)
        await peer.say(Finish(2, ()))
        me = peer.who.node_id
        await peer.say(Reroute(1, me, SENDERS_CLASS, me, "", ids_of(BEGUN), ()))
        assert await peer.hear() == Rerouted(1, BEGUN[-1].id)
        await peer.say(Finish(0, ids_of(BEGUN)))
        assert isinstance(await peer.hear(), Receipt)
        await peer.leave()
        await stage.settled(1)


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


async def test_evidence_is_what_the_sender_signed(stage: Rig) -> None:
    peer = await stage.open()
    steps = [peer.step(BEGUN), peer.step([*NEXT, Row(5, 3, 3, GENERATED)], drop=(2,))]
    for step in (steps[0], steps[1], peer.step()):  # the last one says nothing of any row
        await peer.post(step)
        await peer.result()
    evidence = await peer.evidence()
    assert [(s.step_id, s.ids, s.signature) for s in evidence.received] == [
        (step.step_id, ids_of(step.rows), step.signature) for step in steps
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


async def test_a_closing_node_tells_its_clients(stage: Rig) -> None:
    peer = await stage.open()
    await stage.stage.close()
    await peer.refused(StageFailed, stage.node_id)
