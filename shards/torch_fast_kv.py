"""Keys and values of one session for the fast torch engine, and which of them its rows see."""

from dataclasses import dataclass

import numpy as np
import torch

from hearthring.protocol.errors import BadShape, OutOfSlots
from hearthring.shards.engine import EngineRow, KvCache, Segment, Slots, Window


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
