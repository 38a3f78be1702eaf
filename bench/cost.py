"""What invariant rows cost: each engine beside itself without them."""

import time
from dataclasses import dataclass

import numpy as np

from hearthring.shards.engine import Engine, EngineRow, Kind, KvCache, Segment
from hearthring.shards.engines import EngineOptions, load_engine
from hearthring.shards.fingerprint import uniform
from hearthring.shards.gguf_file import GgufFile

SECONDS, LEAST = 2.0, 3
"""Time for each case, and rounds at any rate: what disturbs a step is never to its favour."""


@dataclass(frozen=True)
class Case:
    """``rows`` rows of a kind from position ``first`` on."""

    kind: Kind
    rows: int
    first: int


CASES = {
    "1 row": Case(Kind.GENERATED, 1, 16),
    "1 row at 640": Case(Kind.GENERATED, 1, 640),
    "8 rows": Case(Kind.GENERATED, 8, 16),
    "prompt of 256": Case(Kind.PROMPT, 256, 0),
}


def show_costs(file: GgufFile) -> None:
    """Print, per engine and number of threads, how much longer steps take for being invariant."""
    print("cost of invariance: time of a step, against the same engine's unconstrained kernels")
    for name in ("ggml", "torch"):
        for threads in (1, 2):
            engines = [
                load_engine(
                    *(name, file, (0, file.shape.layers), None, threads),
                    options=EngineOptions(exact=exact, prompt="low"),
                )
                for exact in (True, False)
            ]
            took = _times(engines)
            costs = [f"{case} {took[case, 0] / took[case, 1] - 1:+.0%}" for case in CASES]
            print(f"  {name}, {threads} thread(s): {', '.join(costs)}", flush=True)


def _times(engines: list[Engine]) -> dict[tuple[str, int], float]:
    """Best seconds per step by case and engine; the engines take turns."""
    room = max(case.first + case.rows for case in CASES.values())
    caches = [engine.new_cache(room) for engine in engines]
    for engine, cache in zip(engines, caches, strict=True):
        for first in range(0, room, 64):  # what the rows look back on
            _step(engine, cache, Case(Kind.PROMPT, min(64, room - first), first))
    best: dict[tuple[str, int], float] = {}
    for name, case in CASES.items():
        ends, rounds = time.perf_counter() + SECONDS, 0
        while rounds < LEAST or time.perf_counter() < ends:
            rounds += 1
            for which, (engine, cache) in enumerate(zip(engines, caches, strict=True)):
                _step(engine, cache, case)  # the other engine's weights may fill the caches
                begun = time.perf_counter()
                _step(engine, cache, case)
                took = time.perf_counter() - begun
                best[name, which] = min(took, best.get((name, which), took))
    return best


def _step(engine: Engine, cache: KvCache, case: Case) -> None:
    slots = np.arange(case.first + case.rows, dtype=np.int64)
    rows = tuple(EngineRow(case.kind, p, p, slots[: p + 1]) for p in range(case.first, len(slots)))
    engine.forward((Segment(cache, rows),), uniform(1, (case.rows, engine.width)))
