"""Sessions on an engine whose caches are full of litter, to compare rows bit by bit."""

import numpy as np

from hearthring.shards.engine import Kind, Segment
from hearthring.shards.slots import SlotMap

PROMPT, GENERATED = Kind.PROMPT, Kind.GENERATED


def litter(cache):
    """Whatever heeds a slot nobody wrote shows."""
    if cache.rows.dtype == np.uint8:
        cache.rows.fill(0xFF)
    else:
        cache.rows[...] = np.random.default_rng(9).uniform(-300, 300, cache.rows.shape[2:])


class Session:
    """Runs steps of (id, parent, kind) on one cache and keeps each row's output by id."""

    def __init__(self, engine, states, capacity=400, window=None):
        self.engine, self.states = engine, states
        self.slots, self.cache = SlotMap(capacity), engine.new_cache(capacity, window)
        litter(self.cache)
        self.position = {0: -1}
        self.out = {}
        self.moves = 0

    def place(self, rows):
        plan = self.slots.compaction(len(rows))
        if plan is not None:
            self.cache.move(*plan)
            self.moves += 1
        placed = []
        for row_id, parent, kind in rows:
            self.position[row_id] = self.position[parent] + 1
            placed.append(self.slots.insert(row_id, parent, self.position[row_id], kind))
        return Segment(self.cache, tuple(placed))

    def keep(self, rows, out):
        for (row_id, _, _), row in zip(rows, out, strict=True):
            self.out[row_id] = row.tobytes()

    def run(self, *rows):
        segment = self.place(rows)
        out, _ = self.engine.forward((segment,), self.states[[row[0] for row in rows]])
        self.keep(rows, out)

    def chain(self, low, high, kind=PROMPT, step=None, parent=None):
        """Rows ``low`` to ``high - 1``, each the child of the one before."""
        rows = [(i, i - 1 if parent is None or i > low else parent, kind) for i in range(low, high)]
        step = step or len(rows) or 1
        for at in range(0, len(rows), step):
            self.run(*rows[at : at + step])
