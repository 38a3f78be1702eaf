"""A stage's commitment to its cells depends on the committed rows only, not on how they came."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np

from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import GENERATED, ROOT, Row
from hearthring.protocol.tensors import Residual, pack
from hearthring.shards.engine import EngineRow, Kind, Segment
from hearthring.shards.torch_engine import TorchEngine
from hearthring.verify import receipts
from hearthring.verify.cells import Column, chunk_root
from hearthring.verify.receipts import ReceiptBody
from hearthring.verify.rowhash import CHUNK, chunk_roots, row_hashes
from tests.stage_peer import MODEL, WINDOW, Peer, Rig, chain, states_of

ROWS = 75
PATH = [*chain(1, 40, ROOT), *chain(41, ROWS - 40, 40, GENERATED)]


def expected(engine: TorchEngine, rows: Sequence[Row]) -> tuple[bytes, ...]:
    """The roots by the definition, one row and one layer at a time."""
    model, numerics = bytes.fromhex(MODEL), bytes.fromhex(engine.numerics.fingerprint)
    slots = np.arange(len(rows), dtype=np.int64)
    columns: dict[int, list[tuple[bytes, bytes, bytes]]] = {layer: [] for layer in range(*WINDOW)}
    caches = {layer: engine.new_cache(len(rows), (layer, layer + 1)) for layer in range(*WINDOW)}
    for at, row in enumerate(rows):
        state = states_of([row.id])
        for layer, cache in caches.items():
            entry = EngineRow(Kind(row.kind), at, at, slots[: at + 1])
            state, _ = engine.forward((Segment(cache, (entry,)),), state)
            wire = pack(state, Residual.FP32)
            (digest,) = row_hashes(model, numerics, layer + 1, [row.kind], [at], wire, 1)
            columns[layer].append((digest, *cache.read(layer, slots[at : at + 1])))
    roots = []
    for first in range(0, len(rows), CHUNK):
        parts = []
        for layer, cells in columns.items():
            hashes, k, v = zip(*cells[first : first + CHUNK], strict=True)
            k, v = (sha256(b"".join(part)).digest() for part in (k, v))
            parts.append(Column(layer, first, hashes, k, v))
        roots.append(chunk_root(parts, model, numerics))
    return tuple(roots)


async def finished(peer: Peer, commit: Sequence[int]) -> ReceiptBody:
    body = await peer.finish(commit)
    await peer.leave()
    await peer.rig.settled(0)
    await peer.rig.stage._worker.run(lambda: None)
    return body


async def one_by_one(peer: Peer) -> ReceiptBody:
    for row in PATH:
        await peer.run([row], commit=(row.parent,) if row.parent else ())
    return await finished(peer, (ROWS,))


async def in_steps(peer: Peer) -> ReceiptBody:
    commit = tuple[int, ...]()
    for at, rows in ((0, 33), (33, 7), (40, 35)):
        await peer.run(PATH[at : at + rows], commit=commit)
        commit = tuple(range(at + 1, at + rows + 1))
    return await finished(peer, commit)


async def test_roots_are_what_their_definition_says(stage: Rig) -> None:
    who = stage.client()
    roots = expected(stage.engine.honest, PATH)  # type: ignore[arg-type]
    assert len(roots) == 3
    for drive in (one_by_one, in_steps, in_steps):  # the last one's rows are all known
        stage.engine.batches.clear()
        body = await drive(await stage.open(who, cells=True, max_rows=90))
        assert (body.cell_roots, body.kv, body.version) == (roots, "f32", 2)


async def test_branches_and_rows_taken_back_leave_no_trace(stage: Rig) -> None:
    peer = await stage.open(cells=True, max_rows=200)
    await peer.run(PATH[:40])
    await peer.run([*chain(200, 3, 40, GENERATED), *chain(300, 2, 201, GENERATED, at=42)])
    await peer.run(chain(400, 30, 300, GENERATED, at=43), commit=(*range(1, 41), 200, 201, 300))
    await peer.run((), commit=range(400, 430), drop=(202, 301))
    await peer.run((), drop=(300,))  # committed, and in a chunk that was sealed
    tail = chain(500, 30, 201, GENERATED, at=42)
    await peer.run(tail)
    await peer.run((), commit=(row.id for row in tail))
    body = await finished(peer, ())
    path = [*PATH[:40], *chain(200, 2, 40, GENERATED), *tail]
    assert body.cell_roots == expected(stage.engine.honest, path)  # type: ignore[arg-type]


async def test_who_wants_no_cells_has_none_and_leaves_none(stage: Rig) -> None:
    who = stage.client()
    peer = await stage.open(who, max_rows=90)
    body = await in_steps(peer)
    assert (body.cell_roots, body.kv) == ((), "")
    stage.engine.batches.clear()
    body = await in_steps(await stage.open(who, cells=True, max_rows=90))
    assert body.cell_roots == expected(stage.engine.honest, PATH)  # type: ignore[arg-type]


async def test_the_last_layer_s_cells_hold_what_was_sent(stage: Rig) -> None:
    peer = await stage.open(cells=True, max_rows=90)
    body = await in_steps(peer)
    hashes = list[bytes]()
    engine = stage.engine.honest
    cache, slots = engine.new_cache(ROWS, WINDOW), np.arange(ROWS, dtype=np.int64)
    for at, row in enumerate(PATH):
        entry = EngineRow(Kind(row.kind), at, at, slots[: at + 1])
        out, _ = engine.forward((Segment(cache, (entry,)),), states_of([row.id]))
        numerics = bytes.fromhex(engine.numerics.fingerprint)
        place = (bytes.fromhex(MODEL), numerics, WINDOW[1], [row.kind], [at])
        hashes += row_hashes(*place, pack(out, Residual.FP32), 1)
    assert body.out_roots == tuple(chunk_roots(range(ROWS), hashes))


def test_a_receipt_of_the_first_version_is_read() -> None:
    """As earlier releases signed it."""
    who, zero = Identity.new(), "00" * 32
    receipt = receipts.sign(
        ReceiptBody(
            *(who.node_id, who.node_id, bytes(16), 0, bytes(32), zero, 0, 1, "fp16", "x", zero),
            *(who.node_id, zero, who.node_id, 1, (bytes(32),), (bytes(32),), (b"",)),
            version=1,
        ),
        who,
    )
    body = receipts.read(receipt)
    assert (body.version, body.cell_roots, body.kv) == (1, (), "")
