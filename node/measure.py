"""Timing an engine at a node's start, once per machine, model and numerics class."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hearthring.protocol.errors import Malformed
from hearthring.shards.atomic import replace_whole
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment, Window
from hearthring.shards.timings import BATCHES, Curve, Timings, curve_of

Clock = Callable[[], float]

BUDGET = 0.1
"""Seconds for one point of a curve: so many layers and repeats as fit in there."""
PATIENCE = 10 * BUDGET
"""A point whose single layer would take longer is left out."""
REPEATS = 3
DRIFT = 1.5
"""A kept table is measured again when one step takes so many times longer, or so much less."""
_PROBE = 4


def measure(engine: Engine, clock: Clock = time.perf_counter) -> Timings:
    """Time both kinds of rows in all ``BATCHES``, a few seconds at most unless layers are huge.

    Many rows run through some of the window's layers only, and their time is scaled up. Before each
    such step a row passes the other layers, so that no weights lie in caches that a whole step
    would have pushed out: prompts are cut into steps by what these cost beside their rows.
    """
    prompt, generated = (_curve(engine, kind, clock) for kind in (Kind.PROMPT, Kind.GENERATED))
    return Timings(prompt, generated)


def _curve(engine: Engine, kind: Kind, clock: Clock) -> Curve:
    layers = engine.end - engine.start
    points: list[tuple[int, float]] = []
    for rows in BATCHES:
        expected = points[-1][1] / points[-1][0] * rows if points else 0.0
        if len(points) > 1 and expected / layers > PATIENCE:
            break
        # Layers that one row passes in a budget's time.
        few = max(1, int(layers * BUDGET / points[0][1])) if points else layers
        points.append((rows, _seconds(engine, kind, rows, expected, few, clock)))
    return tuple(points)


def _seconds(
    engine: Engine, kind: Kind, rows: int, expected: float, few: int, clock: Clock
) -> float:
    """Time of a step through the window, found with as many layers as leave room for repeats; at
    most ``few`` others are passed by a row meanwhile."""
    layers, room = engine.end - engine.start, BUDGET / (1 + REPEATS)
    some = layers if expected <= room else max(1, int(layers * room / expected))
    behind = engine.start + some
    others = behind, min(engine.end, behind + few)
    seconds = _best(engine, (engine.start, behind), kind, rows, clock, others)
    return max(1e-9, seconds * layers / some)


def _best(
    engine: Engine, window: Window, kind: Kind, rows: int, clock: Clock, others: Window = (0, 0)
) -> float:
    """Fastest of a few steps, before each of which a row passes the ``others``, if there are any.
    The first step, in which memory is found and graphs are made, isn't counted unless it takes far
    more time than there is."""
    step = _stepper(engine, window, kind, rows)
    pass_others = _stepper(engine, others, kind, 1) if others[0] < others[1] else lambda: None

    def timed() -> float:
        begun = clock()
        step()
        return clock() - begun

    begun, warm_up = clock(), timed()
    if warm_up > 3 * BUDGET:
        return warm_up
    times = list[float]()
    while not times or (len(times) < REPEATS and clock() - begun < 2 * BUDGET):
        pass_others()
        times.append(timed())
    return min(times)


def _stepper(engine: Engine, window: Window, kind: Kind, rows: int) -> Callable[[], object]:
    """A step of so many rows through some layers, which can be run again and again."""
    slots = np.arange(rows, dtype=np.int64)
    # From position 0: keys and values that were never written may be anything, infinite too.
    segment = Segment(
        engine.new_cache(rows, window),
        tuple(EngineRow(kind, p, p, slots[: p + 1]) for p in range(rows)),
    )
    states = np.empty((rows, engine.width), np.float32)
    states[:] = np.linspace(-1, 1, engine.width, dtype=np.float32)
    return lambda: engine.forward((segment,), states)


def measured(
    engine: Engine, folder: Path, about: dict[str, Any], clock: Clock = time.perf_counter
) -> Timings:
    """The kept table of this engine in ``folder`` if it still holds, else a new one, kept.

    ``about`` names machine, model and whatever else times depend on beside the engine's window and
    class. Whether a table holds is seen by timing one step. A folder that can't be used only means
    that nothing is kept.
    """
    window = engine.start, engine.end
    known = {
        "window": window,
        "numerics": asdict(engine.numerics),
        "rows": BATCHES,
        "caches": "cold",
    }
    about = known | about
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    path = folder / f"{name}.json"
    kept = _read(path)
    if kept is not None:
        now = _best(engine, window, Kind.GENERATED, _PROBE, clock)
        if 1 / DRIFT < now / kept.seconds(Kind.GENERATED, _PROBE) < DRIFT:
            return kept
    table = measure(engine, clock)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        replace_whole(path, json.dumps(asdict(table) | {"about": about}) + "\n")
    return table


def _read(path: Path) -> Timings | None:
    """A kept table; ``None`` where there is none or it is damaged."""
    try:
        kept = json.loads(path.read_text())
        return Timings(curve_of(kept["prompt"]), curve_of(kept["generated"]))
    except (OSError, ValueError, TypeError, KeyError, Malformed):
        return None
