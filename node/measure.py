"""Timing an engine: how long a step through the whole window takes, for routes and plans."""

import time
from dataclasses import dataclass

import numpy as np

from hearthring.shards.engine import Engine, EngineRow, Kind, Segment

BATCHES = (1, 4, 16)
REPEATS = 3


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Fit of generated rows, ``t(m) = step + m * row`` seconds, and 64 prompt rows at once."""

    step: float
    row: float
    prompt64: float


def measure_stage(engine: Engine) -> StageTimes:
    """Run a few batches near position 0 and fit a line through their best times."""
    cache = engine.new_cache(256)
    slots = np.arange(256, dtype=np.int64)

    def run(kind: Kind, first: int, count: int) -> float:
        states = np.zeros((count, engine.width), np.float32)
        states[:] = np.linspace(-1, 1, engine.width, dtype=np.float32)
        rows = tuple(EngineRow(kind, p, p, slots[: p + 1]) for p in range(first, first + count))
        begun = time.perf_counter()
        engine.forward((Segment(cache, rows),), states)
        return time.perf_counter() - begun

    prompt = min(run(Kind.PROMPT, 0, 64) for _ in range(REPEATS))
    best = [min(run(Kind.GENERATED, 64, m) for _ in range(REPEATS)) for m in BATCHES]
    row, step = np.polyfit(BATCHES, best, 1)
    return StageTimes(max(0.0, float(step)), max(1e-6, float(row)), prompt)
