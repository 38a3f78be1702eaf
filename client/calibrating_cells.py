"""How far apart honest engines are in single cells: one layer, one row, from the same input.

A text goes through the layers of a route's engine once; cells drawn as audits draw them are then
computed again by the auditor's, from the residual below and the K and V that the route stored.
"""

from typing import NamedTuple

import numpy as np

from hearthring.client.texts import Text
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.cell_runner import EngineCells
from hearthring.shards.engine import Engine, EngineRow, KvCache, Segment
from hearthring.verify.cell_check import errors, layer_means
from hearthring.verify.draw import draw


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
    auditor: EngineCells, route: Pass, text: Text, residual: Residual, chance: bytes
) -> tuple[float, float]:
    """What an audit that draws by ``chance`` finds in the worst layer: see ``layer_means``."""
    below, last = route.before, max(route.after)
    drawn = draw(chance, (route.first, last), len(text.ids), prompt=text.prompt)
    found = []
    for layer in range(route.first, last):
        above = route.after[layer + 1]
        places = [cell.position for cell in drawn if cell.layer == layer]
        rows = [(int(text.kinds[at]), at) for at in places]
        stored = route.cache.read(layer, np.arange(places[-1] + 1, dtype=np.int64))
        made = auditor.run(layer, rows, below[places], stored, route.cache.kv_type)
        found += [
            (layer, *errors(made, i, below[places], above[places], residual))
            for i in range(len(rows))
        ]
        below = above
    means = layer_means(found).values()
    return max(added for added, _ in means), max(stored for _, stored in means)
