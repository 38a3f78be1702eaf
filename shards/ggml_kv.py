"""Keys and values of one session for the ggml engine, addressed by slot."""

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.errors import BadShape, OutOfSlots
from hearthring.shards.engine import EngineRow, KvCache, Slots, Window
from hearthring.shards.ggml_memory import EVERYWHERE

KEY, VALUE = 0, 1
LEAST = 128
"""Slots that there is room for at least."""


def first_row(row: int) -> int:
    """The number, in rows of so many bytes counted from address 0, of the first in that buffer."""
    return -(-EVERYWHERE[0] // row)


def kv_bytes(kind: str, values: int) -> int:
    """What so many values take in a cache of a kind: ``f16``, or ``q8_0`` with a scale per 32."""
    return values // 32 * 34 if kind == "q8_0" else 2 * values


class GgmlKv:
    """K and V, ``[layers in the window, 2, heads, slots, width]``, all zero.

    A head's slots lie side by side: attention reads them one after the other, which is twice as
    fast at long contexts as in strides. ``rows`` is of float16, or of bytes for ``q8_0``. The
    system hands out the memory as rows are written, and takes it back with the object, so there is
    ``room`` for a power of two of slots: few graphs serve sessions of all lengths.
    ``addresses[layer, which]`` is where each K or V begins.
    """

    def __init__(
        self, window: Window, slots: int, heads: int, width: int, kind: str = "f16"
    ) -> None:
        self.window, self.capacity, self.kind = window, slots, kind
        self.heads, self.width = heads, width
        row, self.room = kv_bytes(kind, width), max(LEAST, 1 << (slots - 1).bit_length())
        shape = (window[1] - window[0], 2, heads, self.room, row)
        memory = _lazy_zeros(shape)
        self.rows: NDArray[Any] = memory.view(np.float16) if kind == "f16" else memory
        steps = np.arange(shape[0] * 2, dtype=np.uint64) * np.uint64(np.prod(shape[2:]))
        self.addresses = (steps + np.uint64(self.rows.ctypes.data)).reshape(shape[0], 2)
        begins = self.addresses.astype(np.int64).reshape(-1, 1) // row - first_row(row)
        self._begins, self._heads_at = begins, np.arange(heads, dtype=np.int64) * self.room
        self._first_homes = begins + self._heads_at

    def homes(self, slots: list[int], out: NDArray[np.int64]) -> None:
        """Put where slots lie, as rows of all memory, into ``[layers and K or V, slots and heads]``
        numbers."""
        if len(slots) == 1:
            np.add(self._first_homes, slots[0], out=out)
        else:
            within = np.array(slots, np.int64)[:, None] + self._heads_at
            np.add(self._begins, within.reshape(-1), out=out)

    def move(self, source: Slots, target: Slots) -> None:
        """Copy rows between slots, bit for bit; all are read before any is written."""
        for part in self.rows.reshape(-1, *self.rows.shape[3:]):
            part[target] = part[source]

    def clear(self, slots: list[int]) -> None:
        """Make slots what they were in the beginning."""
        self.rows[..., slots, :] = 0

    def straight(self, path: Slots, copied: int) -> "GgmlKv":
        """A cache in which slots are positions, holding copies of the first rows of a path."""
        room = -(-len(path) // 64) * 64
        other = GgmlKv(self.window, room, self.heads, self.width, self.kind)
        other.rows[..., :copied, :] = self.rows[..., path[:copied], :]
        return other

    def copy(self, other: KvCache, source: Slots, target: Slots) -> None:
        """Copy rows of another cache, as ``KvCache.copy``."""
        if not isinstance(other, GgmlKv) or other.window != self.window:
            raise BadShape("a cache of another engine or window", field="cache")
        ours, theirs = (kv.rows.reshape(-1, *kv.rows.shape[3:]) for kv in (self, other))
        for mine, part in zip(ours, theirs, strict=True):
            mine[target] = part[source]

    @property
    def kv_type(self) -> str:
        """The type of what is stored."""
        return self.kind

    def read(self, layer: int, slots: Slots) -> tuple[bytes, bytes]:
        """Stored bytes, as ``KvCache.read``."""
        k, v = (part[:, slots].swapaxes(0, 1) for part in self.rows[layer - self.window[0]])
        return k.tobytes(), v.tobytes()

    def write(self, layer: int, slots: Slots, k: bytes, v: bytes) -> None:
        """Stored bytes, as ``KvCache.write``."""
        for part, data in zip(self.rows[layer - self.window[0]], (k, v), strict=True):
            if len(data) != len(slots) * part[:, 0].nbytes:
                raise BadShape(f"{len(data)} bytes for {len(slots)} rows", field="kv")
            rows = np.frombuffer(data, part.dtype).reshape(len(slots), self.heads, -1)
            part[:, slots] = rows.swapaxes(0, 1)

    def check(self, row: EngineRow) -> None:
        """Raise ``OutOfSlots`` for a row that lies outside the cache."""
        if not (0 <= row.slot < self.capacity and int(row.path[-1]) == row.slot):
            raise OutOfSlots(f"slot {row.slot} of {self.capacity}", field="slot")


def _lazy_zeros(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Zeros that cost no memory until they are written, at a multiple of the last dimension.

    numpy asks for huge pages, of which the first row of every layer would take one whole.
    """
    size, row = int(np.prod(shape)), shape[-1]
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        memory = np.zeros(size + row, np.uint8)
    else:
        pages = mmap.mmap(-1, size + row, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            pages.madvise(mmap.MADV_NOHUGEPAGE)
        memory = np.frombuffer(pages, np.uint8)
    first = -memory.ctypes.data % row
    return memory[first : first + size].reshape(shape)


def ggml_kv(cache: object) -> GgmlKv:
    """``cache`` itself. Raises ``TypeError`` for one of another engine."""
    if not isinstance(cache, GgmlKv):
        raise TypeError(f"a cache of another engine: {type(cache).__name__}")
    return cache
