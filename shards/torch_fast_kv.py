"""Keys and values of one session for the fast torch engine, and which of them its rows see."""

from dataclasses import dataclass

import numpy as np
import torch

from hearthring.protocol.errors import BadShape, OutOfSlots
from hearthring.shards.engine import EngineRow, KvCache, Segment, Slots, Window
from hearthring.shards.kv_types import kv_bytes_of, kv_floats


class FastKv:
    """K and V ``[layers in the window, kv_heads, slots, head_width]`` on the engine's device.

    Slots that no row was written to hold zeros: what is masked has weight 0, and 0 times whatever
    memory holds might not be 0.
    """

    def __init__(
        self, window: Window, slots: int, heads: tuple[int, int], like: torch.Tensor
    ) -> None:
        self.window, self.capacity = window, slots
        size = (window[1] - window[0], heads[0], slots, heads[1])
        self.k = torch.zeros(size, dtype=like.dtype, device=like.device)
        self.v = torch.zeros(size, dtype=like.dtype, device=like.device)

    def move(self, source: Slots, target: Slots) -> None:
        """Copy rows between slots, bit for bit; all are read before any is written."""
        with torch.inference_mode():
            old, new = (torch.from_numpy(x.copy()).to(self.k.device) for x in (source, target))
            for part in (*self.k, *self.v):
                part.index_copy_(1, new, part.index_select(1, old))

    def copy(self, other: KvCache, source: Slots, target: Slots) -> None:
        """Copy rows of another cache, as ``KvCache.copy``."""
        if not isinstance(other, FastKv) or other.window != self.window:
            raise BadShape("a cache of another engine or window", field="cache")
        with torch.inference_mode():
            old, new = (torch.from_numpy(x.copy()).to(self.k.device) for x in (source, target))
            for ours, theirs in ((self.k, other.k), (self.v, other.v)):
                ours.index_copy_(2, new, theirs.index_select(2, old))

    def clear(self, slots: torch.Tensor) -> None:
        """Make slots as if nothing had been written to them."""
        for part in (self.k, self.v):
            part.index_fill_(2, slots, 0.0)

    @property
    def kv_type(self) -> str:
        """The type of what is stored."""
        return {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[self.k.dtype]

    def read(self, layer: int, slots: Slots) -> tuple[bytes, bytes]:
        """Stored bytes, as ``KvCache.read``."""
        local, chosen = layer - self.window[0], torch.from_numpy(slots.copy()).to(self.k.device)
        with torch.inference_mode():
            rows = [part[local].index_select(1, chosen) for part in (self.k, self.v)]
            flat = [row.transpose(0, 1).reshape(len(slots), -1).float().cpu() for row in rows]
        k, v = (kv_bytes_of(self.kv_type, row.numpy()).tobytes() for row in flat)
        return k, v

    def write(self, layer: int, slots: Slots, k: bytes, v: bytes) -> None:
        """Stored bytes, as ``KvCache.write``."""
        local, chosen = layer - self.window[0], torch.from_numpy(slots.copy()).to(self.k.device)
        heads, width = self.k.shape[1], self.k.shape[3]
        for part, data in ((self.k, k), (self.v, v)):
            floats = kv_floats(self.kv_type, data, heads * width)
            if len(floats) != len(slots):
                raise BadShape(f"{len(data)} bytes for {len(slots)} rows", field="kv")
            rows = torch.from_numpy(floats).view(len(slots), heads, width).transpose(0, 1)
            with torch.inference_mode():
                part[local].index_copy_(1, chosen, rows.to(part))

    def check(self, row: EngineRow) -> None:
        """Raise ``OutOfSlots`` for a row that lies outside the cache."""
        if not 0 <= row.slot < self.capacity:
            raise OutOfSlots(f"slot {row.slot} of {self.capacity}", field="slot")


@dataclass(frozen=True, slots=True)
class Sight:
    """One session's rows of a batch: rows ``first .. last - 1``, which go to ``slots``.

    ``masks``: by sliding window (0: none), which of the first ``used`` slots each row sees,
    ``[group * rows, used]``: once for each query head of a KV head.
    """

    cache: FastKv
    first: int
    last: int
    used: int
    slots: torch.Tensor
    masks: dict[int, torch.Tensor]


def sights(
    segments: tuple[Segment, ...], windows: frozenset[int], group: int, device: torch.device
) -> tuple[Sight, ...]:
    """What the rows of each segment see. Raises ``OutOfSlots``."""
    found: list[Sight] = []
    first = 0
    for segment in segments:
        cache = segment.cache
        if not isinstance(cache, FastKv):
            raise TypeError(f"a cache of another engine: {type(cache).__name__}")
        for row in segment.rows:
            cache.check(row)
        if not segment.rows:
            continue
        used = max(row.slot for row in segment.rows) + 1
        masks = {}
        for window in windows:
            seen = np.zeros((len(segment.rows), used), np.bool_)
            for mark, row in zip(seen, segment.rows, strict=True):
                mark[row.path[-window:]] = True  # -0 is the whole path
            masks[window] = torch.from_numpy(np.tile(seen, (group, 1))).to(device)
        slots = torch.tensor([row.slot for row in segment.rows], device=device)
        last = first + len(segment.rows)
        found.append(Sight(cache, first, last, used, slots, masks))
        first = last
    return tuple(found)
