"""How many threads an engine is fastest with, found by trying."""

import time
from collections.abc import Callable

import numpy as np

from hearthring.shards.engine import Engine, EngineRow, Kind, Segment

SECONDS = 0.08
"""Spent on each number of threads."""
REPEATS = 3
"""At least, however long they take."""
GAIN = 1.05
"""More threads must be faster by this factor: they are taken from everything else that runs."""


def candidates(cores: int) -> tuple[int, ...]:
    """Powers of two up to ``cores``, and ``cores`` itself."""
    return tuple(sorted({1 << n for n in range(cores.bit_length())} | {cores}))


def choose_threads(
    make: Callable[[int], Engine], cores: int, clock: Callable[[], float] = time.perf_counter
) -> int:
    """The number of threads, 1 to ``cores``, with which a generated row is fastest.

    ``make`` gives an engine of a few layers with so many threads; it is kept no longer than it is
    timed, about a tenth of a second. A generated row is what everybody waits for, and what gains
    least from threads: where one row does, long prompts do.
    """
    best, chosen = float("inf"), 1
    for threads in candidates(max(1, cores)):
        fastest = _fastest_row(make(threads), clock)
        if fastest * GAIN < best:
            best, chosen = fastest, threads
    return chosen


def _fastest_row(engine: Engine, clock: Callable[[], float]) -> float:
    row = EngineRow(Kind.GENERATED, 0, 0, np.zeros(1, np.int64))
    segments = (Segment(engine.new_cache(1), (row,)),)
    states = np.linspace(-1, 1, engine.width, dtype=np.float32)[None]
    engine.forward(segments, states)  # builds graphs and starts threads
    fastest, repeats, end = float("inf"), 0, clock() + SECONDS
    while repeats < REPEATS or clock() < end:
        begun = clock()
        engine.forward(segments, states)
        fastest = min(fastest, clock() - begun)
        repeats += 1
    return fastest
