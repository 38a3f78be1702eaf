"""Openings that aren't what was signed, live openings of open sessions, and what stages refuse."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields, replace

import numpy as np
import pytest

from hearthring.client.cells import ask_cells, ask_commitment, promise_of
from hearthring.node import opening
from hearthring.protocol.cells import OpenedColumn
from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    LayersOutOfRange,
    QuotaExceeded,
    TooLarge,
    UnknownRow,
    UnknownSession,
)
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import GENERATED, PROMPT, ROOT, Reroute
from hearthring.shards.cell_runner import EngineCells
from hearthring.shards.shape import Shape
from hearthring.shards.torch_engine import TorchEngine
from hearthring.verify import receipts
from hearthring.verify.cell_check import check_cells, layer_means
from hearthring.verify.draw import Cell, draw
from hearthring.verify.opening import Promise
from hearthring.verify.tolerance import Calibration, Tolerance, sort_of
from hearthring.verify.verdict import Outcome, Strength
from tests.stage_peer import SENDERS_CLASS, WIDTH, WINDOW, Peer, Rig, chain

PROMPT_ROWS, ROWS = 40, 100
FULL = ROWS // 32 * 32
KINDS = [PROMPT] * PROMPT_ROWS + [GENERATED] * (ROWS - PROMPT_ROWS)


@pytest.fixture(scope="module")
def cells(engine: TorchEngine) -> EngineCells:
    return EngineCells(engine, engine.shape.kv_heads * engine.shape.head_width)


@asynccontextmanager
async def in_the_middle(stage: Rig) -> AsyncIterator[Peer]:
    """A client in the middle of a session."""
    peer = await stage.open(cells=True, max_rows=120)
    await peer.run(chain(1, PROMPT_ROWS, ROOT))
    rest = chain(PROMPT_ROWS + 1, ROWS - PROMPT_ROWS, PROMPT_ROWS, GENERATED)
    await peer.run(rest, commit=range(1, PROMPT_ROWS + 1))
    await peer.run((), commit=[row.id for row in rest])
    yield peer
    await peer.leave()


@pytest.fixture
async def peer(stage: Rig) -> AsyncIterator[Peer]:
    async with in_the_middle(stage) as peer:
        yield peer


async def committed(peer: Peer, shape: Shape) -> Promise:
    where = peer.transport, peer.rig.address, peer.rig.node_id
    body = receipts.read(await ask_commitment(*where, peer.wish.session, WINDOW[0]))
    return promise_of(body, KINDS, shape)


async def opened(peer: Peer, drawn: tuple[Cell, ...]) -> list[OpenedColumn]:
    where = peer.transport, peer.rig.address, peer.rig.node_id
    return await ask_cells(*where, peer.wish.session, drawn, WINDOW[0])


async def test_an_open_session_shows_its_last_chunks(
    peer: Peer, engine: TorchEngine, cells: EngineCells
) -> None:
    promise = await committed(peer, engine.shape)
    body = promise.body
    assert (body.rows, len(body.cell_roots), body.digests) == (FULL, 3, ())
    drawn = draw(bytes(32), WINDOW, body.rows, first=FULL - 64)
    verdict = check_cells(promise, drawn, await opened(peer, drawn), cells)
    assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS)
    final = await peer.finish(())
    assert final.cell_roots[:3] == body.cell_roots
    assert (final.in_roots[:3], final.out_roots[:3]) == (body.in_roots, body.out_roots)


async def test_every_altered_byte_is_noticed(
    peer: Peer, engine: TorchEngine, cells: EngineCells
) -> None:
    promise = await committed(peer, engine.shape)
    drawn = draw(bytes(32), WINDOW, FULL, first=FULL - 64)
    columns = await opened(peer, drawn)
    tried = 0
    for place, column in enumerate(columns):
        for field in fields(OpenedColumn):
            value = getattr(column, field.name)
            if field.name == "last":
                continue
            for other in altered(value):
                changed = replace(column, **{field.name: other})
                wrong = [*columns[:place], changed, *columns[place + 1 :]]
                first = column.boundary == WINDOW[0]
                if field.name in ("residuals", "k_hash", "v_hash", "path", "k", "v") and first:
                    continue  # these mean nothing there
                if field.name == "residuals" and column.hashes:
                    continue
                if (field.name == "k_hash" and column.k) or (field.name == "v_hash" and column.v):
                    continue
                verdict = check_cells(promise, drawn, wrong, cells)
                assert verdict.outcome is Outcome.REJECTED, (place, field.name)
                assert verdict.guilty[0].node == promise.body.node
                tried += 1
        wrong = [*columns[:place], *columns[place + 1 :]]
        assert check_cells(promise, drawn, wrong, cells).outcome is Outcome.REJECTED
        assert check_cells(promise, drawn, [*columns, column], cells).outcome is Outcome.REJECTED
    assert tried > 40


def altered(value: object) -> list[object]:
    """Other values of a column's field."""
    if isinstance(value, int):
        return [value + 1, value + 32, 1 << 20]
    if isinstance(value, bytes):
        return [bytes([value[0] ^ 1]) + value[1:], value[:-1], value + b"\0"] if value else []
    assert isinstance(value, tuple)
    if not value:
        return []
    head = altered(value[0])[0]
    return [(head, *value[1:]), value[:-1], (*value, value[0])]


async def test_a_stage_refuses_what_it_can_t_or_needn_t_show(peer: Peer) -> None:
    where = peer.rig.address, peer.rig.node_id
    session, mine = peer.wish.session, peer.transport
    cases: list[tuple[type[HearthringError], tuple[Cell, ...]]] = [
        (LayersOutOfRange, (Cell(WINDOW[1], 3),)),
        (LayersOutOfRange, (Cell(WINDOW[0] - 1, 3),)),
        (UnknownRow, (Cell(WINDOW[0], ROWS),)),
    ]
    for error, drawn in cases:
        with pytest.raises(error):
            await opened(peer, drawn)
    for _ in range(FULL // 32 + LIMITS.openings - len(cases)):
        await opened(peer, (Cell(WINDOW[0], 0),))
    with pytest.raises(QuotaExceeded):
        await opened(peer, (Cell(WINDOW[0], 0),))
    stranger = peer.rig.client()
    with pytest.raises(UnknownSession):
        await ask_commitment(stranger, *where, session, WINDOW[0])
    with pytest.raises(UnknownSession):
        await ask_cells(stranger, *where, session, (Cell(WINDOW[0], 1),), WINDOW[0])
    with pytest.raises(UnknownSession):
        await ask_commitment(mine, *where, bytes(16), WINDOW[0])


async def test_an_opening_shows_so_many_bytes_and_one_is_shown_at_a_time(
    peer: Peer, stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = tuple(Cell(WINDOW[0], position) for position in range(8))
    size = 2 * len(drawn) * WIDTH * 4  # below and above each
    for most, fits in ((size, True), (size - 1, False)):
        monkeypatch.setattr("hearthring.node.opening.LIMITS", replace(LIMITS, opening_bytes=most))
        if fits:
            assert await opened(peer, drawn)
        else:
            with pytest.raises(TooLarge, match=f"{size} bytes"):
                await opened(peer, drawn)
    (place,) = stage.stage._places._taken.values()
    monkeypatch.undo()
    async with place.opening:
        second = asyncio.create_task(opened(peer, drawn))
        await asyncio.sleep(0.05)
        assert not second.done()
    assert await second
    await peer.finish(())
    await peer.leave()
    await stage.settled(0)
    monkeypatch.setattr("hearthring.node.opening.LIMITS", replace(LIMITS, opening_bytes=size - 1))
    with pytest.raises(TooLarge, match=f"{size} bytes"):
        await opened(peer, drawn)


@pytest.mark.parametrize("room", [0, 1 << 20])
async def test_old_rows_are_run_again_while_a_session_is_open_unless_there_is_room_for_them(
    stage: Rig,
    engine: TorchEngine,
    cells: EngineCells,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
) -> None:
    monkeypatch.setattr("hearthring.node.cells.KEPT_CHUNKS", 1)
    monkeypatch.setattr("hearthring.node.cells.KEPT_BYTES", room)
    async with in_the_middle(stage) as peer:
        promise = await committed(peer, engine.shape)
        positions = [*range(1, 32, 2), 37, 39, 40, 50]
        drawn = tuple(Cell(layer, position) for layer in range(*WINDOW) for position in positions)
        before = len(stage.engine.batches)
        columns = await opened(peer, drawn)
        # Eight at once; prompt rows are segments of their own, the two generated ones share one.
        assert stage.engine.batches[before:] == ([] if room else [8, 8, 3])
        verdict = check_cells(promise, drawn, columns, cells)
        assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS)
        assert (await peer.finish(())).cell_roots[:3] == promise.body.cell_roots


async def test_who_reads_a_rebuilt_opening_slowly_loses_the_turn(
    peer: Peer, stage: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others wait for it. So nobody has it for longer than an opening may take."""
    monkeypatch.setattr("hearthring.node.cell_desk.LIMITS", replace(LIMITS, opening=0.2))

    async def stuck(*_: object) -> None:
        await asyncio.Event().wait()

    await peer.finish(())
    await peer.leave()
    await stage.settled(0)
    monkeypatch.setattr("hearthring.node.cell_desk.CellDesk._send", stuck)
    with pytest.raises(DeadlineExceeded, match="too slow"):
        await opened(peer, (Cell(WINDOW[0], 1),))
    assert not stage.stage.cells._turn.locked()


async def test_rows_that_were_reused_are_shown_too(
    stage: Rig, engine: TorchEngine, cells: EngineCells
) -> None:
    who = stage.client()
    for _ in range(2):
        peer = await stage.open(who, cells=True, max_rows=120)
        await peer.run(chain(1, PROMPT_ROWS, ROOT))
        rest = chain(PROMPT_ROWS + 1, ROWS - PROMPT_ROWS, PROMPT_ROWS, GENERATED)
        await peer.run(rest, commit=range(1, PROMPT_ROWS + 1))
        await peer.run((), commit=[row.id for row in rest])
        promise = await committed(peer, engine.shape)
        drawn = draw(bytes(32), WINDOW, FULL, prompt=PROMPT_ROWS)
        verdict = check_cells(promise, drawn, await opened(peer, drawn), cells)
        assert verdict.outcome is Outcome.ACCEPTED, verdict
        await peer.finish(())
        await peer.leave()
        await stage.settled(0)
        await stage.stage._worker.run(lambda: None)


def test_a_layer_is_as_far_off_as_its_cells_are_on_average() -> None:
    found = layer_means([(3, 0.1, 0.4), (1, 1.0, 0.0), (3, 0.3, 0.0)])
    assert found == {3: pytest.approx((0.2, 0.2)), 1: (1.0, 0.0)}
    assert layer_means([]) == {}


async def test_another_class_compares_within_a_tolerance(
    peer: Peer, engine: TorchEngine, cells: EngineCells
) -> None:
    promise = await committed(peer, engine.shape)
    drawn = draw(bytes(32), WINDOW, FULL, first=FULL - 64)
    columns = await opened(peer, drawn)

    class Other(EngineCells):
        """Rounds elsewhere."""

        factor = np.float32(1.001)

        def run(self, layer, rows, below, stored, kv):  # type: ignore[no-untyped-def]
            made = super().run(layer, rows, below, stored, kv)
            return made._replace(out=below + (made.out - below) * self.factor)

    other = Other(engine, engine.shape.kv_heads * engine.shape.head_width)
    assert check_cells(promise, drawn, columns, other).outcome is Outcome.REJECTED  # bits
    other.fingerprint = "00" * 32
    verdict = check_cells(promise, drawn, columns, other)
    assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.TOLERANCE)
    assert 0 < verdict.figures["added_error"] < 0.01
    other.factor = np.float32(1.2)
    assert check_cells(promise, drawn, columns, other).outcome is Outcome.REJECTED
    wide = Tolerance(cell_added=0.3, cell_stored=0.3, bound=0.01)
    known = Calibration("m", {sort_of(promise.body.numerics): wide})
    verdict = check_cells(promise, drawn, columns, other, known)
    assert verdict.outcome is Outcome.ACCEPTED
    assert verdict.figures["thresholds"] == {"added_error": 0.3, "stored_error": 0.3}
    assert verdict.figures["false_rejections_at_most"] == 0.01


async def test_what_a_new_epoch_takes_back_while_it_is_shown_is_named(
    peer: Peer, stage: Rig
) -> None:
    (place,) = stage.stage._places._taken.values()
    session, run, me = place.session, stage.stage._worker.run, peer.who.node_id
    inside = await run(session.inside)
    columns = opening.opened(inside, (Cell(WINDOW[0], 1), Cell(WINDOW[0], FULL - 1)))
    assert (await run(lambda: next(columns))).positions
    kept = tuple(range(1, PROMPT_ROWS + 1))
    await run(lambda: session.reroute(Reroute(1, me, SENDERS_CLASS, me, "", kept, ())))
    with pytest.raises(UnknownRow, match="taken back"):
        await run(lambda: list(columns))
