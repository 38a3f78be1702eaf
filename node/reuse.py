"""Taking rows over that an earlier session left: keys, values, outputs and cells, uncomputed."""

from collections.abc import Mapping, Sequence

import numpy as np

from hearthring.node.cells import CellBook
from hearthring.node.prefix import PrefixCursor
from hearthring.node.retention import Retention
from hearthring.protocol.messages import Row
from hearthring.shards.engine import EngineRow, KvCache


def reuse(
    prefix: PrefixCursor,
    rows: Sequence[Row],
    placed: Mapping[int, EngineRow],
    kept: Retention,
    cache: KvCache,
    cells: CellBook | None,
) -> frozenset[int]:
    """Copy what is known of these rows into their slots of a ``cache``, and name the rows.

    ``placed`` are the slots of those that have one. The first that isn't known ends it, as does one
    whose cells weren't noted where this session's must be.
    """
    runs: list[tuple[KvCache, list[int], list[int]]] = []
    reused = set[int]()
    for row in rows:
        entry = placed.get(row.id)
        found = prefix.follow(kept[row.id].row, kept[row.id].received) if entry else None
        if found is None or entry is None:
            break
        if cells is not None:
            if found.cells is None:
                break
            cells.known(row.id, found.cells)
        if not runs or runs[-1][0] is not found.cache:
            runs.append((found.cache, [], []))
        runs[-1][1].append(found.slot)
        runs[-1][2].append(entry.slot)
        kept[row.id].wire = found.wire
        reused.add(row.id)
    for source, taken, given in runs:
        cache.copy(source, np.array(taken, np.int64), np.array(given, np.int64))
    return frozenset(reused)
