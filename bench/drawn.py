"""What do cells catch that a beacon draws?

Run: python -m bench.drawn [--runs 100] [--json FILE]

Liars of `tests/liar.py` on a tiny model are audited with as many beacons: the share of audits that
reject each. Then draws alone: how often one meets a cheat on a share f of all cells, beside
1 - (1 - f)^n.
"""

import argparse
import tempfile
from hashlib import sha256
from pathlib import Path

import numpy as np

from bench.nodes import report
from bench.staged import PROMPT_ROWS, Ring, generate, records
from hearthring.client.cells import promise_of
from hearthring.node.opening import Rebuilt, opened
from hearthring.protocol.tensors import Residual
from hearthring.shards.cell_runner import EngineCells
from hearthring.shards.engine import Engine
from hearthring.shards.engines import load_engine
from hearthring.shards.gguf_file import GgufFile
from hearthring.verify.cell_check import check_cells
from hearthring.verify.draw import draw
from hearthring.verify.verdict import Outcome
from tests.liar import hooks_for
from tests.tiny import write_tiny_gguf

FAULTS = (
    *("noise:0.01", "scale:1.01", "flip-sign", "replay", "stale-kv"),
    *("skip-layer:2", "swap-layer", "other-weights:8"),
)


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
    """Audit, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report({"caught": catch(options.runs), "shares": shares()}, options.json)


if __name__ == "__main__":
    main()
