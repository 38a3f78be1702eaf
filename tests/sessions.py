"""A session at an engine: rows by id and parent, whatever the engine."""

from typing import Any

import numpy as np

from hearthring.protocol.tensors import F32
from hearthring.shards.engine import Kind, Segment, Window
from hearthring.shards.ggml_kv import GgmlKv
from hearthring.shards.slots import SlotMap

PROMPT, GENERATED = Kind.PROMPT, Kind.GENERATED
Row = tuple[int, int, Kind]
"""Id, parent and kind."""


def litter(cache: Any) -> None:
    """Fill a cache, so that whatever heeds a slot nobody wrote shows."""
    if not isinstance(cache, GgmlKv):
        cache.k.fill_(np.nan)
        cache.v.fill_(np.nan)
    elif cache.rows.dtype == np.uint8:
        cache.rows.fill(0xFF)
    else:
        cache.rows[...] = np.random.default_rng(9).uniform(-300, 300, cache.rows.shape[2:])


class Session:
    """Runs steps of rows on one cache and keeps each row's output by id.

    ``states[i]`` is what row i brings. The cache is full of litter at first, so whatever heeds a
    slot nobody wrote shows.
    """

    def __init__(
        self, engine: Any, states: F32, capacity: int = 400, window: Window | None = None
    ) -> None:
        self.engine, self.states = engine, states
        self.slots, self.cache = SlotMap(capacity), engine.new_cache(capacity, window)
        litter(self.cache)
        self.position = {0: -1}
        self.out: dict[int, bytes] = {}
        self.moves = 0

    def place(self, rows: list[Row]) -> Segment:
        """Slots for new rows."""
        plan = self.slots.compaction(len(rows))
        if plan is not None:
            self.cache.move(*plan)
            self.moves += 1
        placed = []
        for row_id, parent, kind in rows:
            self.position[row_id] = self.position[parent] + 1
            placed.append(self.slots.insert(row_id, parent, self.position[row_id], kind))
        return Segment(self.cache, tuple(placed))

    def keep(self, rows: list[Row], out: F32) -> None:
        """Remember outputs."""
        for (row_id, _, _), row in zip(rows, out, strict=True):
            self.out[row_id] = row.tobytes()

    def run(self, *rows: Row) -> None:
        """One step."""
        segment = self.place(list(rows))
        out, _ = self.engine.forward((segment,), self.states[[row[0] for row in rows]])
        self.keep(list(rows), out)

    def chain(
        self,
        low: int,
        high: int,
        kind: Kind = PROMPT,
        step: int | None = None,
        parent: int | None = None,
    ) -> None:
        """Rows ``low`` to ``high - 1``, each the child of the one before."""
        rows = [(i, i - 1 if parent is None or i > low else parent, kind) for i in range(low, high)]
        step = step or len(rows) or 1
        for at in range(0, len(rows), step):
            self.run(*rows[at : at + step])

    def array(self, low: int, high: int) -> F32:
        """Outputs of rows ``low`` to ``high - 1``."""
        return np.stack([np.frombuffer(self.out[i], np.float32) for i in range(low, high)])
