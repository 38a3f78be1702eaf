"""Keys and values of one session for the ggml engine, addressed by slot."""

import mmap

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.errors import OutOfSlots
from hearthring.shards.engine import EngineRow, Slots, Window

KEY, VALUE = 0, 1


class GgmlKv:
    """K and V ``[layers in the window, 2, slots, kv_heads * head_width]`` in fp16, all zero.

    The system hands out the memory as rows are written, and takes it back with the object.
    ``addresses[layer, which]`` is where each K or V begins.
    """

    def __init__(self, window: Window, slots: int, row: int) -> None:
        self.window, self.capacity = window, slots
        shape = (window[1] - window[0], 2, slots, row)
        self.rows = _lazy_zeros(shape)
        steps = np.arange(shape[0] * 2, dtype=np.uint64) * np.uint64(slots * row * 2)
        self.addresses = (steps + np.uint64(self.rows.ctypes.data)).reshape(shape[0], 2)

    def move(self, source: Slots, target: Slots) -> None:
        """Copy rows between slots, bit for bit; all are read before any is written."""
        for part in self.rows.reshape(-1, *self.rows.shape[2:]):
            part[target] = part[source]

    def clear(self, slots: list[int]) -> None:
        """Make slots what they were in the beginning."""
        self.rows[:, :, slots] = 0

    def straight(self, path: Slots, copied: int) -> "GgmlKv":
        """A cache in which slots are positions, holding copies of the first rows of a path."""
        other = GgmlKv(self.window, -(-len(path) // 64) * 64, self.rows.shape[3])
        other.rows[:, :, :copied] = self.rows[:, :, path[:copied]]
        return other

    def check(self, row: EngineRow) -> None:
        """Raise ``OutOfSlots`` for a row that lies outside the cache."""
        if not (0 <= row.slot < self.capacity and int(row.path[-1]) == row.slot):
            raise OutOfSlots(f"slot {row.slot} of {self.capacity}", field="slot")


def _lazy_zeros(shape: tuple[int, ...]) -> NDArray[np.float16]:
    """Zeros that cost no memory until they are written.

    numpy asks for huge pages, of which the first row of every layer would take one whole.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.zeros(shape, np.float16)
    size = max(1, 2 * int(np.prod(shape)))
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.float16, int(np.prod(shape))).reshape(shape)


def ggml_kv(cache: object) -> GgmlKv:
    """``cache`` itself. Raises ``TypeError`` for one of another engine."""
    if not isinstance(cache, GgmlKv):
        raise TypeError(f"a cache of another engine: {type(cache).__name__}")
    return cache
