"""What do proofs cost a stage and an auditor?

Run: python -m bench.cells [--tokens 512] [--json FILE]

SmolLM2 in four stages of one process, no network: each stage's session takes signed steps, hashes,
computes, signs, and with cells commits to them; CPU times of one thread. Then the answer is audited
at every depth, with loaded layers: the whole replayed, one stage replayed from its record, and
every stage opening what a beacon draws, from its record. Digests are those of `bench/digest.py`.
`bench/path.py` holds rings with proofs against rings without; `bench/drawn.py` tells what cells
catch.
"""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from bench.digest import measure as digest_cost
from bench.nodes import MACHINE, report
from bench.staged import MODEL, PROMPT_ROWS, Account, Clock, Ring, generate, records
from hearthring.client.cells import promise_of
from hearthring.client.window_replay import BATCH
from hearthring.node.opening import Rebuilt, opened
from hearthring.protocol.cells import OpenedColumn, encode_cells_reply
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.tensors import Residual, pack, unpack
from hearthring.protocol.verifying import OpenedRows, encode_verify_down
from hearthring.shards.cell_runner import EngineCells
from hearthring.shards.ends import open_ends
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.engines import load_engine
from hearthring.shards.shape import Shape
from hearthring.shards.store import ModelStore
from hearthring.verify.cell_check import check_cells
from hearthring.verify.draw import draw
from hearthring.verify.rowhash import chunk_roots, row_hashes
from hearthring.verify.verdict import Outcome

STAGES = 4


def audit(
    engine: Engine,
    shape: Shape,
    record: Account,
    runner: EngineCells,
    beacon: bytes,
    clock: Clock,
) -> tuple[Outcome, int, int]:
    """Draw, open, check: the outcome, cells, and bytes that travelled."""
    body, taken, sent = record
    promise = promise_of(body, taken.kinds, shape)
    cells = draw(beacon, (body.start, body.end), body.rows, 0, PROMPT_ROWS)
    with clock.on("prover"):
        rebuilt = Rebuilt(engine, taken, sent, cells)
        while rebuilt.advance():
            pass
        columns = list[OpenedColumn]()
        travelled = 0
        for column in opened(rebuilt, cells):
            columns.append(column)
            travelled += len(encode_cells_reply(column))
    with clock.on("verifier"):
        verdict = check_cells(promise, cells, columns, runner)
    return verdict.outcome, len(cells), travelled


def replay(engine: Engine, account: Account, wire: bytes, residual: Residual) -> bytes:
    """Run a stage's rows again, hash both sides, and compare them with its receipt."""
    body, taken, _ = account
    rows, kinds = body.rows, taken.kinds
    slots, cache = np.arange(rows, dtype=np.int64), engine.new_cache(rows)
    entries = [EngineRow(Kind(kind), p, p, slots[: p + 1]) for p, kind in enumerate(kinds)]
    states = unpack(wire, rows, engine.width, residual)
    done = [
        engine.forward((Segment(cache, tuple(entries[at : at + BATCH])),), states[at : at + BATCH])
        for at in range(0, rows, BATCH)
    ]
    out = pack(np.concatenate([states for states, _ in done]), residual)
    for boundary, name, data, roots in (
        (body.start, body.previous_fingerprint, wire, body.in_roots),
        (body.end, body.fingerprint, out, body.out_roots),
    ):
        raw = bytes.fromhex(MODEL), bytes.fromhex(name)
        hashes = row_hashes(*raw, boundary, kinds, range(rows), data, rows)
        assert tuple(chunk_roots(range(rows), hashes)) == roots
    return out


def replays(
    engines: Sequence[Engine], accounts: Sequence[Account], residual: Residual
) -> dict[str, dict[str, Any]]:
    """The whole answer, and one stage from the record of the stage before it."""
    whole, one = Clock(), Clock()
    wire = accounts[0][1].wire
    with whole.on("verifier"):
        for engine, account in zip(engines, accounts, strict=True):
            wire = replay(engine, account, wire, residual)
    place, travelled = len(engines) // 2, 0
    with one.on("prover"):
        _, _, sent = accounts[place - 1]
        rows = accounts[place - 1][0].rows
        size = len(sent) // rows
        step = max(1, LIMITS.piece_bytes // size)
        for first in range(0, rows, step):
            states = sent[first * size : (first + step) * size]
            travelled += len(encode_verify_down(OpenedRows(first, states, first + step >= rows)))
    with one.on("verifier"):
        replay(engines[place], accounts[place], sent, residual)
    return {
        "whole replay": columns_of(whole, 0),
        "one stage's replay": columns_of(one, travelled),
    }


def columns_of(clock: Clock, travelled: int) -> dict[str, Any]:
    """CPU seconds of both sides, and what the prover sent."""
    spent = {side: round(clock.spent.get(side, 0.0), 4) for side in ("verifier", "prover")}
    return {f"{side}_s": seconds for side, seconds in spent.items()} | {"bytes": travelled}


def on_the_path(steps: dict[str, Sequence[dict[str, float]]]) -> dict[str, Any]:
    """What proofs add to a generated row: milliseconds at the median step, by what they go into,
    and their share of a row's path where nothing is proven.

    Signatures are checked beside engines and the head, and cells hashed once the step has left:
    these are told apart, the latter as a mean over all steps, since it comes once in 32.
    """
    figures: dict[str, Any] = {}
    for way, taken in steps.items():
        parts = {what: median(step[what] for step in taken) for what in taken[0]}
        parts["cells"] = mean(step["cells"] for step in taken)
        figures[f"ms per row, {way}"] = {k: round(v * 1e3, 3) for k, v in parts.items()}

    def walk(step: dict[str, float]) -> float:
        return step["engine"] + step["around"] + step["client"]

    for way in ("signed", "told"):
        pairs = zip(steps[way], steps["bare"], strict=True)
        added = median(walk(step) / walk(bare) - 1 for step, bare in pairs)
        figures[f"{way}: share added to the path"] = round(added, 4)
    row = median(walk(bare) for bare in steps["bare"])
    checks = median(step["checks"] for step in steps["told"])
    cells = mean(step["cells"] for step in steps["told"])
    figures["checks beside engines and head, share"] = round(checks / row, 4)
    figures["cells once the step has left, share"] = round(cells / row, 4)
    return figures


def measure(tokens: int) -> dict[str, Any]:
    """Costs on SmolLM2."""
    gguf, residual = ModelStore().find("smollm2").open(), Residual.BF16
    shape, rows = gguf.shape, tokens
    cuts = [shape.layers * i // STAGES for i in range(STAGES + 1)]
    windows = list(pairwise(cuts))
    engines = [load_engine("ggml", gguf, window, residual, 1) for window in windows]
    ids = np.random.default_rng(0).integers(100, 40_000, rows).tolist()
    wire = pack(open_ends("ggml", gguf, residual, 1).embed(ids), residual)
    size = shape.width * residual.bytes
    ways = {
        "bare": Ring(engines, rows, cells=False, bare=True),
        "signed": Ring(engines, rows, cells=False),
        "told": Ring(engines, rows, cells=True),
    }
    walks = [generate(ring, wire, size, rows) for ring in ways.values()]
    steps = list(zip(*walks, strict=True))  # step by step, so that all meet the same machine
    path = on_the_path(dict(zip(ways, zip(*steps[1:], strict=True), strict=True)))
    told, made = ways["told"], ways["bare"].clock.spent["engine"]
    values, accounts = shape.kv_heads * shape.head_width, records(told)
    clock, total, cells = Clock(), 0, 0
    for engine, account in zip(engines, accounts, strict=True):
        runner = EngineCells(engine, values)
        outcome, count, travelled = audit(engine, shape, account, runner, bytes(32), clock)
        assert outcome is Outcome.ACCEPTED
        cells, total = cells + count, total + travelled
    depths = replays(engines, accounts, residual)
    depths[f"{cells} cells of all stages"] = columns_of(clock, total)
    for depth in depths.values():
        depth["generating / verifier"] = round(made / depth["verifier_s"], 1)
    return (
        path
        | {
            "rows": rows,
            "generating_s": round(made, 3),
        }
        | {f"audit: {name}": columns for name, columns in depths.items()}
    )


def digests() -> dict[str, Any]:
    """At width 4096: digests and hashes in batches, and what a token takes in a proof."""
    digest, hashed, _, length = digest_cost(4096, 32, 5)
    return {
        "ms_per_chunk": round((digest + hashed) / 1e3, 3),
        "bytes_per_token_and_stage": round((length + 3 * 32) / 32, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cost = measure(options.tokens)
    report({"machine": MACHINE, **cost, "digests, width 4096": digests()}, options.json)


if __name__ == "__main__":
    main()
