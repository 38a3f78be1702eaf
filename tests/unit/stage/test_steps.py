"""Steps that break the rules: their session ends by name, and no other."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hearthring.protocol.errors import (
    BadShape,
    BadSignature,
    HearthringError,
    Malformed,
    NonFinite,
    OutOfOrder,
    OutOfSlots,
    TooLarge,
    UnknownRow,
)
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import (
    GENERATED,
    PROMPT,
    ROOT,
    HopTime,
    Row,
    Step,
)
from hearthring.protocol.tensors import Residual, pack
from hearthring.protocol.wire import encode_step
from hearthring.shards.torch_engine import TorchEngine
from tests.stage_peer import (
    BEGUN,
    NEXT,
    WIDTH,
    Peer,
    Rig,
    alone,
    chain,
    honest_beside,
    rig,
    states_of,
    wire,
)


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
