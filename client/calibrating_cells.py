"""How far apart honest engines are in single cells: one layer, one row, from the same input.

A text goes through the layers of a route's engine once; of every layer some rows are then computed
again by the auditor's, from the residual below them and the K and V that the route stored.
"""

from typing import NamedTuple

import numpy as np

from hearthring.client.texts import Text
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.cell_runner import EngineCells
from hearthring.shards.engine import Engine, EngineRow, KvCache, Segment
from hearthring.verify.cell_check import errors

CELLS = 4
"""Rows per layer and text, half of them of the prompt: about as many as an audit draws."""


class Pass(NamedTuple):
    """A text run through the layers of an engine: residuals before the first and after each."""

    before: F32
    after: dict[int, F32]
    cache: KvCache
    first: int


def run_layers(engine: Engine, text: Text, states: F32) -> Pass:
    """Run ``states`` ``[rows, width]`` through all layers of ``engine``."""
    slots = np.arange(len(states), dtype=np.int64)
    rows = tuple(EngineRow(kind, p, p, slots[: p + 1]) for p, kind in enumerate(text.kinds))
    segment = Segment(engine.new_cache(len(states)), rows)
    taps = frozenset(range(engine.start + 1, engine.end + 1))
    after = engine.forward((segment,), states, taps)[1]
    return Pass(states, after, segment.cache, engine.start)


def cell_errors(
    auditor: EngineCells, route: Pass, text: Text, residual: Residual, draw: np.random.Generator
) -> tuple[float, float]:
    """The largest errors over some cells of every layer: of what it added, and of K and V."""
    below, worst = route.before, (0.0, 0.0)
    for layer in range(route.first, route.first + len(route.after)):
        above = route.after[layer + 1]
        rows = [(int(text.kinds[at]), at) for at in _positions(text, draw)]
        places = [at for _, at in rows]
        slots = np.arange(places[-1] + 1, dtype=np.int64)
        stored = route.cache.read(layer, slots)
        made = auditor.run(layer, rows, below[places], stored, route.cache.kv_type)
        for i in range(len(rows)):
            found = errors(made, i, below[places], above[places], residual)
            worst = max(worst[0], found[0]), max(worst[1], found[1])
        below = above
    return worst


def _positions(text: Text, draw: np.random.Generator) -> list[int]:
    """Rows of both kinds, in order."""
    parts = [np.arange(text.prompt), np.arange(text.prompt, len(text.ids))]
    chosen = [draw.choice(some, min(CELLS // 2, len(some)), replace=False) for some in parts]
    return sorted(int(at) for some in chosen for at in some)
