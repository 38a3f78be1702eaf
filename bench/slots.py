"""Do rows keep their bits in a cache that is hardly large enough?

Thousands of random inserts, commits, drops and reuses of slots, with compactions where no slot
above a row's parent is free; every row is compared, bit for bit, with a fresh run of its path.

Run: python -m bench.slots [--steps 10000] [--seed 1]
"""

import argparse
import sys

import numpy as np

from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.engine import Engine, Kind, Segment
from hearthring.shards.fingerprint import fixed_weight, uniform
from hearthring.shards.ggml_check import WideWeights
from hearthring.shards.ggml_engine import GgmlEngine
from hearthring.shards.shape import Shape
from hearthring.shards.slots import ROOT, SlotMap
from hearthring.shards.torch_engine import TorchEngine

CAPACITY, ROWS, VOCABULARY = 40, 4, 6


class Fresh:
    """The last row of any path, run alone, in order, from the first slot on."""

    def __init__(self, engine: Engine, states: F32) -> None:
        self._engine, self._states = engine, states
        self._cache = engine.new_cache(CAPACITY)
        self._known: dict[tuple[int, ...], bytes] = {}

    def row(self, path: tuple[int, ...]) -> bytes:
        if path not in self._known:
            slots = SlotMap(CAPACITY)
            rows = [slots.insert(i + 1, i, i, Kind.GENERATED) for i in range(len(path))]
            segment = Segment(self._cache, tuple(row for row in rows if row is not None))
            out, _ = self._engine.forward((segment,), self._states[list(path)])
            self._known[path] = out[-1].tobytes()
        return self._known[path]


def shuffle_slots(engine: Engine, steps: int, draw: np.random.Generator) -> tuple[int, int, int]:
    """Rows compared, rows that differ, and compactions."""
    states = uniform(5, (VOCABULARY, engine.width))
    slots, cache, fresh = SlotMap(CAPACITY), engine.new_cache(CAPACITY), Fresh(engine, states)
    parents: dict[int, int] = {}
    paths: dict[int, tuple[int, ...]] = {ROOT: ()}
    last = compared = wrong = compactions = 0
    for _ in range(steps):
        while slots.live > CAPACITY - ROWS or (slots.live and draw.random() < 0.05):
            parents = {row: parent for row, parent in parents.items() if row in slots}
            slots.drop([list(parents)[int(len(parents) * draw.random())]])
        parents = {row: parent for row, parent in parents.items() if row in slots}
        paths = {ROOT: ()} | {row: paths[row] for row in parents}
        count = int(draw.integers(1, ROWS + 1))
        if (moved := slots.compaction(count)) is not None:
            cache.move(*moved)
            compactions += 1
        rows, ids = [], list(range(last + 1, last + count + 1))
        for last in ids:
            # Mostly below the newest rows, so that paths get long.
            parent = list(paths)[-1 - int(len(paths) * draw.random() ** 4)]
            paths[last] = (*paths[parent], int(draw.integers(VOCABULARY)))
            parents[last] = parent
            row = slots.insert(last, parent, len(paths[last]) - 1, Kind.GENERATED)
            assert row is not None
            rows.append(row)
        out, _ = engine.forward((Segment(cache, tuple(rows)),), states[[paths[r][-1] for r in ids]])
        for row_id, result in zip(ids, out, strict=True):
            compared += 1
            wrong += result.tobytes() != fresh.row(paths[row_id])
        extending = [row for row in parents if parents[row] == slots.tip]
        if extending and draw.random() < 0.4:
            slots.commit([extending[int(draw.integers(len(extending)))]])
    return compared, wrong, compactions


def engines() -> dict[str, Engine]:
    """Two small layers of fixed weights in each engine."""
    shape = Shape("llama", 2, 64, 4, 2, 16, 128, 100, 512, 1e-5, 1e4)

    def load(name: str) -> F32:
        return fixed_weight(name, shape)

    return {
        "ggml": GgmlEngine(WideWeights(load, shape), 0, 2, Residual.FP16),
        "torch": TorchEngine(load, shape, 0, 2, Residual.FP16),
    }


def main() -> int:
    """Check both engines; the exit code tells whether all bits were equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    worst = 0
    for name, engine in engines().items():
        draw = np.random.default_rng(options.seed)
        compared, wrong, compactions = shuffle_slots(engine, options.steps, draw)
        worst = max(worst, wrong)
        print(
            f"{name:6} seed {options.seed}: {options.steps} steps, {compared} rows compared, "
            f"{compactions} compactions, {wrong} rows differ"
        )
        sys.stdout.flush()
    return 1 if worst else 0


if __name__ == "__main__":
    raise SystemExit(main())
