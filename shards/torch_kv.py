"""Keys and values of one session for the torch engine, and how a generated row reads them.

A row of the cache is one position's K (or V) of all KV heads, ``kv_heads * head_width`` floats.
Nothing is ever read from a slot that no row was written to.
"""

from dataclasses import dataclass

import numpy as np
import torch

from hearthring.protocol.errors import BadShape, OutOfSlots
from hearthring.shards.engine import EngineRow, KvCache, Slots, Window

ALIGNED = 16  # floats in the 64 bytes that torch aligns every new tensor to


class TorchKv:
    """K and V buffers ``[layers in the window, slots, kv_heads * head_width]`` in fp32.

    The buffers are not cleared, so the system hands out memory only as rows are written.
    """

    def __init__(self, window: Window, slots: int, row: int) -> None:
        self.window = window
        layers = window[1] - window[0]
        self.k = torch.empty(layers, slots, row)
        self.v = torch.empty(layers, slots, row)

    @property
    def capacity(self) -> int:
        """Slots there are."""
        return self.k.shape[1]

    def move(self, source: Slots, target: Slots) -> None:
        """Copy rows between slots, bit for bit; all are read before any is written."""
        old, new = torch.from_numpy(source), torch.from_numpy(target)
        with torch.inference_mode():
            for layer in range(self.k.shape[0]):
                self.k[layer].index_copy_(0, new, self.k[layer].index_select(0, old))
                self.v[layer].index_copy_(0, new, self.v[layer].index_select(0, old))

    def copy(self, other: KvCache, source: Slots, target: Slots) -> None:
        """Copy rows of another cache, as ``KvCache.copy``."""
        if not isinstance(other, TorchKv) or other.window != self.window:
            raise BadShape("a cache of another engine or window", field="cache")
        old, new = torch.from_numpy(source), torch.from_numpy(target)
        with torch.inference_mode():
            self.k.index_copy_(1, new, other.k.index_select(1, old))
            self.v.index_copy_(1, new, other.v.index_select(1, old))

    @property
    def kv_type(self) -> str:
        """The type of what is stored."""
        return "f32"

    def read(self, layer: int, slots: Slots) -> tuple[bytes, bytes]:
        """Stored bytes, as ``KvCache.read``."""
        chosen, local = torch.from_numpy(slots), layer - self.window[0]
        with torch.inference_mode():
            k, v = (part[local].index_select(0, chosen).numpy() for part in (self.k, self.v))
        return k.astype("<f4").tobytes(), v.astype("<f4").tobytes()

    def write(self, layer: int, slots: Slots, k: bytes, v: bytes) -> None:
        """Stored bytes, as ``KvCache.write``."""
        chosen, local = torch.from_numpy(slots), layer - self.window[0]
        for part, data in ((self.k, k), (self.v, v)):
            if len(data) != len(slots) * part.shape[2] * 4:
                raise BadShape(f"{len(data)} bytes for {len(slots)} rows", field="kv")
            rows = np.frombuffer(data, "<f4").astype(np.float32).reshape(len(slots), -1)
            with torch.inference_mode():
                part[local].index_copy_(0, chosen, torch.from_numpy(rows))

    def check(self, row: EngineRow) -> None:
        """Raise ``OutOfSlots`` for a row that lies outside the cache."""
        if not 0 <= row.slot < self.capacity:
            raise OutOfSlots(f"slot {row.slot} of {self.capacity}", field="slot")


@dataclass(slots=True)
class PathRead:
    """How one generated row gets its K and V, in path order, from a cache.

    ``first``/``slots``: rows ``first`` onwards are copied from ``slots`` into the shared scratch,
    whose rows before ``first`` the row before this one left there. ``slots`` is None when the path
    is slot 0, 1, 2 … of the cache: then the cache itself is read.
    """

    cache: TorchKv
    length: int
    first: int
    slots: torch.Tensor | None

    def read(
        self, layer: int, scratch: tuple[torch.Tensor, torch.Tensor], window: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V ``[length, row]``, or those of the last ``window`` positions; strides and
        alignment are alike for either way of reading."""
        k, v = self.cache.k[layer], self.cache.v[layer]
        low = max(0, self.length - window) if window else 0
        if self.slots is None:
            return k[low : self.length], v[low : self.length]
        for buffer, source in zip(scratch, (k, v), strict=True):
            torch.index_select(source, 0, self.slots, out=buffer[self.first : self.length])
        return scratch[0][low : self.length], scratch[1][low : self.length]


def plan_reads(rows: list[tuple[TorchKv, EngineRow]], row: int) -> list[PathRead]:
    """A ``PathRead`` per row, to be read in order, every layer alike.

    Branches of one tree share most of their path: only what differs from the row before is copied.
    """
    reads: list[PathRead] = []
    held: tuple[TorchKv, Slots] | None = None  # what the scratch holds before this row
    for cache, item in rows:
        path, length = item.path, len(item.path)
        if row % ALIGNED == 0 and path[-1] == length - 1 and path[0] == 0 and _straight(path):
            reads.append(PathRead(cache, length, 0, None))
            continue
        first = _shared(held[1], path) if held is not None and held[0] is cache else 0
        first = min(first, length - 1)
        reads.append(PathRead(cache, length, first, torch.from_numpy(path[first:].copy())))
        held = cache, path
    return reads


def _straight(path: Slots) -> bool:
    return bool((path == np.arange(len(path))).all())


def _shared(one: Slots, other: Slots) -> int:
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    return int(differ.argmax()) if differ.any() else length
