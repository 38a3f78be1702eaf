"""What do cells cost on the path of a token, opened and checked, and what do they catch?

Run: python bench/cells.py [--tokens 512] [--runs 100] [--json FILE]

SmolLM2 in four stages of one process, no network: each stage's session takes signed steps, hashes,
computes, signs, and with cells commits to them; CPU times of one thread. Then every stage opens
what a beacon draws, from its record, and the opening is checked. Last, liars of `tests/liar.py` on
a tiny model are audited with as many beacons, and draws are held against 1 - (1 - f)^n.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from nodes import MACHINE, report

from hearthring.client.cells import promise_of
from hearthring.node.archive import CellRecord
from hearthring.node.opening import Rebuilt, opened
from hearthring.node.stage_session import StageSession
from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import GENERATED, PROMPT, HopTime, Open, Row, Step
from hearthring.protocol.tensors import Residual, pack
from hearthring.shards.cell_runner import EngineCells
from hearthring.shards.ends import open_ends
from hearthring.shards.engine import Engine
from hearthring.shards.engines import load_engine
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.shape import Shape
from hearthring.shards.store import ModelStore
from hearthring.shards.tracing import TracingEngine
from hearthring.verify import receipts
from hearthring.verify.cell_check import check_cells
from hearthring.verify.claims import claim
from hearthring.verify.draw import draw
from hearthring.verify.rowhash import row_hashes
from hearthring.verify.verdict import Outcome
from tests.liar import hooks_for
from tests.tiny import write_tiny_gguf

MODEL, PROMPT_ROWS, STAGES = "ab" * 32, 64, 4
FAULTS = (
    *("noise:0.01", "scale:1.01", "flip-sign", "replay", "stale-kv"),
    *("skip-layer:2", "swap-layer", "other-weights:8"),
)


class Clock:
    """CPU seconds of this thread, by what they were spent on."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
        begun = time.thread_time()
        yield
        self.spent[what] = self.spent.get(what, 0.0) + time.thread_time() - begun


class Ring:
    """Stages of one model, each a session of its own, and their client."""

    def __init__(self, engines: Sequence[Engine], rows: int, cells: bool) -> None:
        self.engines, self.who = engines, [Identity.new() for _ in range(len(engines) + 1)]
        self.session, self.clock = bytes(16), Clock()
        residual = engines[0].numerics.residual.value
        classes = ["cd" * 32, *(e.numerics.fingerprint for e in engines)]
        self.stages = []
        for place, engine in enumerate(engines):
            after = self.who[(place + 2) % len(self.who)].node_id
            wish = Open(
                *(self.session, 0, MODEL, engine.start, engine.end, residual),
                *(engine.numerics.fingerprint, self.who[place].node_id, after, "", rows),
                *(bytes(32), classes[place]),
                cells=cells,
            )
            client = self.who[0].node_id
            self.stages.append(StageSession(wish, client, engine, self.who[place + 1]))

    def run(self, step: Step) -> None:
        """One step through all stages."""
        step = self._signed(step)
        for engine, stage in zip(self.engines, self.stages, strict=True):
            with self.clock.on("around"):
                prepared = stage.prepare(step)
                prepared.check.begin()
            trace = None
            with self.clock.on("engine"):
                if stage.traced:
                    assert isinstance(engine, TracingEngine)
                    out, _, trace = engine.forward_traced((prepared.segment,), prepared.states)
                else:
                    out, _ = engine.forward((prepared.segment,), prepared.states)
            with self.clock.on("around"):
                stage.confirm(prepared)
                step = stage.complete(prepared, out, HopTime(0.0, 0.0), trace)
            with self.clock.on("cells"):
                stage.settle()

    def _signed(self, step: Step) -> Step:
        first = self.stages[0].wish
        ids = [row.id for row in step.rows]
        hashes = row_hashes(
            bytes.fromhex(MODEL),
            bytes.fromhex(first.previous_fingerprint),
            first.start,
            [row.kind for row in step.rows],
            [row.position for row in step.rows],
            step.states,
            len(ids),
        )
        said = claim(self.session, 0, step.step_id, first.start, ids, hashes)
        return Step(
            *(step.session, 0, step.step_id, step.rows, step.states, step.commit),
            signature=self.who[0].sign(said),
        )


def generate(ring: Ring, wire: bytes, size: int, rows: int) -> Iterator[None]:
    """A prompt in one step, then rows one by one; yields after each."""
    commit: tuple[int, ...] = ()
    for number, first in enumerate((0, *range(PROMPT_ROWS, rows)), 1):
        count, kind = (1, GENERATED) if first else (PROMPT_ROWS, PROMPT)
        made = tuple(Row(p + 1, p, p, kind) for p in range(first, first + count))
        states = wire[first * size : (first + count) * size]
        ring.run(Step(ring.session, 0, number, made, states, commit))
        commit = tuple(row.id for row in made)
        yield
    for stage in ring.stages:
        with ring.clock.on("receipt"):
            stage.receipt(commit)


def records(ring: Ring) -> list[tuple[receipts.ReceiptBody, CellRecord, bytes]]:
    """What auditors and stages have after the end."""
    found = []
    for stage in ring.stages:
        receipt, record = stage.receipt(()), stage.record()
        assert receipt is not None
        assert record is not None
        assert record.cells is not None
        found.append((receipts.read(receipt), record.cells, record.wire))
    return found


def audit(
    engine: Engine,
    shape: Shape,
    record: tuple[receipts.ReceiptBody, CellRecord, bytes],
    runner: EngineCells,
    beacon: bytes,
    clock: Clock,
) -> tuple[Outcome, int, int]:
    """Draw, open, check: the outcome, cells and bytes."""
    body, taken, sent = record
    promise = promise_of(body, taken.kinds, shape)
    cells = draw(beacon, (body.start, body.end), body.rows, 0, PROMPT_ROWS)
    with clock.on("prover"):
        rebuilt = Rebuilt(engine, taken, sent, cells)
        while rebuilt.advance():
            pass
        columns = list(opened(rebuilt, cells))
    with clock.on("verifier"):
        verdict = check_cells(promise, cells, columns, runner)
    return verdict.outcome, len(cells), int(verdict.figures.get("bytes", 0))


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
    plain, told = Ring(engines, rows, False), Ring(engines, rows, True)
    walks = [generate(ring, wire, size, rows) for ring in (plain, told)]
    while walks:  # step by step, so that both meet the same machine
        walks = [walk for walk in walks if next(walk, 0) is None]
    off, on = (sum(r.clock.spent.values()) - r.clock.spent["receipt"] for r in (plain, told))
    values = shape.kv_heads * shape.head_width
    clock, total, cells = Clock(), 0, 0
    for engine, record in zip(engines, records(told), strict=True):
        runner = EngineCells(engine, values)
        outcome, count, opened_bytes = audit(engine, shape, record, runner, bytes(32), clock)
        assert outcome is Outcome.ACCEPTED
        cells, total = cells + count, total + opened_bytes
    made = plain.clock.spent["engine"]
    return {
        "rows": rows,
        "ms_per_row": {k: round(v / rows * 1e3, 3) for k, v in told.clock.spent.items()},
        "ms_per_row_without": {k: round(v / rows * 1e3, 3) for k, v in plain.clock.spent.items()},
        "cells_on_the_path": round(on / off - 1, 4),
        "all_checks_on_the_path": round(on / made - 1, 4),
        "cells_checked": cells,
        "opened_mib": round(total / 2**20, 2),
        "generating_s": round(made, 3),
        "prover_s": round(clock.spent["prover"], 3),
        "verifier_s": round(clock.spent["verifier"], 4),
        "verifier_ratio": round(made / clock.spent["verifier"], 1),
    }


def catch(runs: int) -> dict[str, float]:
    """The share of audits that reject, by fault, and for an honest stage."""
    rows, residual = 96, Residual.FP16
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        gguf = GgufFile(write_tiny_gguf(Path(folder) / "tiny.gguf"))
        shape = gguf.shape
        own = load_engine("torch", gguf, (0, 4), residual, 1)
        runner = EngineCells(own, shape.kv_heads * shape.head_width)
        states = np.random.default_rng(1).standard_normal((rows, shape.width))
        wire = states.astype("<f2").tobytes()
        for fault in ("honest", *FAULTS):
            engine = load_liar(gguf, fault, residual)
            ring = Ring([engine], rows, True)
            for _ in generate(ring, wire, shape.width * 2, rows):
                pass
            ((body, taken, sent),) = records(ring)
            promise = promise_of(body, taken.kinds, shape)
            beacons = [sha256(f"{fault} {run}".encode()).digest() for run in range(runs)]
            drawn = [
                draw(beacon, (body.start, body.end), rows, 0, PROMPT_ROWS) for beacon in beacons
            ]
            rebuilt = Rebuilt(engine, taken, sent, [cell for cells in drawn for cell in cells])
            while rebuilt.advance():
                pass
            verdicts = [
                check_cells(promise, cells, list(opened(rebuilt, cells)), runner) for cells in drawn
            ]
            found[fault] = sum(v.outcome is Outcome.REJECTED for v in verdicts) / runs
    return found


def load_liar(gguf: GgufFile, fault: str, residual: Residual) -> Engine:
    """A stage of the last two layers."""
    if fault == "honest":
        return load_engine("torch", gguf, (2, 4), residual, 1)
    hooks = hooks_for(fault, (2, 4))
    load = hooks.load(gguf.dequantised)
    return hooks.engine(load_engine("torch", gguf, (2, 4), residual, 1, load=load))


def shares(draws: int = 2000) -> list[dict[str, float]]:
    """Cheats on a share of all cells: how often a draw meets one, and 1 - (1 - f)^n."""
    random, window, rows = np.random.default_rng(2), (0, 8), 512
    table = []
    for share in (0.01, 0.03, 0.1, 0.3):
        hit = count = 0
        for run in range(draws):
            wrong = random.random((window[1], rows)) < share
            cells = draw(sha256(f"{share} {run}".encode()).digest(), window, rows)
            hit, count = hit + any(wrong[cell] for cell in cells), count + len(cells)
        mean = count / draws
        table.append(
            {
                "share": share,
                "cells": round(mean, 2),
                "caught": round(hit / draws, 4),
                "expected": round(1 - (1 - share) ** mean, 4),
            }
        )
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    steps: dict[str, Callable[[], Any]] = {
        "cost": lambda: measure(options.tokens),
        "caught": lambda: catch(options.runs),
        "shares": shares,
    }
    found = {"machine": MACHINE} | {name: step() for name, step in steps.items()}
    report(found, options.json)


if __name__ == "__main__":
    main()
