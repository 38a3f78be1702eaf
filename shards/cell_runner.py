"""One layer at a time on rows that somebody else computed before: what checks opened cells."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hearthring.protocol.errors import BadShape
from hearthring.protocol.tensors import F32
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.kv_types import kv_bytes_of, kv_floats, kv_row_bytes


class LayerRows(NamedTuple):
    """Rows run through one layer: residuals ``[rows, width]``, and K and V as stored.

    ``k_said`` and ``v_said`` are what was given for them, in the same floats as ``k_floats``.
    """

    out: F32
    k: bytes
    v: bytes
    k_floats: F32
    v_floats: F32
    k_said: F32
    v_said: F32


class EngineCells:
    """Runs single layers of an engine's window; see ``verify.cell_check.CellRunner``.

    ``values``: of a K or V row, KV heads times their width.
    """

    def __init__(self, engine: Engine, values: int) -> None:
        self.fingerprint = engine.numerics.fingerprint
        self.kv = engine.new_cache(1).kv_type
        self._engine, self._values = engine, values

    def run(
        self,
        layer: int,
        rows: Sequence[tuple[int, int]],
        below: F32,
        stored: tuple[bytes, bytes],
        kv: str,
    ) -> LayerRows:
        """Run rows ``(kind, position)``, positions growing, through one layer.

        ``below`` ``[rows, width]``: their residuals under it. ``stored``: K and V rows of all
        positions up to the last of them, of type ``kv``. Raises ``BadShape`` or ``NonFinite``.
        """
        count = rows[-1][1] + 1
        cache = self._engine.new_cache(count, (layer, layer + 1))
        slots = np.arange(count, dtype=np.int64)
        size = kv_row_bytes(kv, self._values)
        if any(len(data) != count * size for data in stored):
            raise BadShape(f"not {count} rows of K and V", field="kv")
        chosen = np.array([at for _, at in rows], np.int64)
        cache.write(layer, slots, *(self._own(data, kv) for data in stored))
        entries = [EngineRow(Kind(kind), at, at, slots[: at + 1]) for kind, at in rows]
        # An engine takes rows that don't follow each other in one pass only as segments.
        segments = tuple(Segment(cache, (entry,)) for entry in entries)
        out, _ = self._engine.forward(segments, below)
        k, v = cache.read(layer, chosen)
        said = [b"".join(data[at * size : (at + 1) * size] for _, at in rows) for data in stored]
        k_said, v_said = (kv_floats(kv, data, self._values) for data in said)
        mine = [kv_floats(self.kv, data, self._values) for data in (k, v)]
        return LayerRows(out, k, v, mine[0], mine[1], k_said, v_said)

    def _own(self, data: bytes, kv: str) -> bytes:
        """Rows in this engine's own type."""
        if kv == self.kv:
            return data
        return kv_bytes_of(self.kv, kv_floats(kv, data, self._values)).tobytes()
