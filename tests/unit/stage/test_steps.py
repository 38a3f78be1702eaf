"""Steps that break the rules: their session ends by name, and no other."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hearthring.protocol.errors import (
    BadSignature,
    Malformed,
    TooLarge,
)
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import (
    ROOT,
    HopTime,
    Row,
    Step,
)
from hearthring.protocol.wire import encode_step
from hearthring.shards.torch_engine import TorchEngine
from tests.broken_rules import STEPS
from tests.stage_peer import (
    BEGUN,
    NEXT,
    Rig,
    alone,
    chain,
    honest_beside,
    rig,
)


@pytest.mark.parametrize("name", STEPS)
async def test_a_wrong_step_ends_its_session_alone(stage: Rig, name: str) -> None:
    error, field, make = STEPS[name]
    async with honest_beside(stage):
        peer = await stage.open()
        assert len(await peer.run(BEGUN)) == 3
        await peer.post(make(peer))
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


async def test_a_step_that_wants_no_output_gets_none(stage: Rig) -> None:
    peer = await stage.open()
    await peer.send(BEGUN, want_output=False)
    step = await peer.pass_on(NEXT)
    assert step.step_id == 2
    assert step.states == alone(stage.engine.honest, [*BEGUN, *NEXT])[3]
