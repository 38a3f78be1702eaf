"""What an engine is: a window of layers, run on ragged batches of rows.

An engine knows nothing of networks, tokens or sessions. It is handed residual rows and told, per
row, where its key and value go and which slots it sees; trees, commits and drops are the slot
bookkeeping of ``shards/slots.py``.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.tensors import F32, Residual

Slots = NDArray[np.int64]


class Kind(IntEnum):
    """Why a row exists. Kernels may differ by kind, so the kind is part of what a row means."""

    PROMPT = 1
    GENERATED = 2


@dataclass(frozen=True, slots=True)
class Numerics:
    """A numerics class: within one, the bits of a row depend on weights and token path only.

    ``name`` tells people what it is; only equal ``fingerprint``s (SHA-256, hex, of outputs on
    fixed weights) are the same class.
    """

    name: str
    residual: Residual
    fingerprint: str


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One row to run.

    ``slot`` is where its key and value go. ``path`` holds the slots of all its ancestors from the
    first position on and ends with ``slot``: ``path[p]`` is the slot of position ``p``, so
    ``len(path) == position + 1``.
    """

    kind: Kind
    position: int
    slot: int
    path: Slots


Window = tuple[int, int]
"""Layers ``[start, end)``."""


class KvCache(Protocol):
    """Keys and values of one session in one window, addressed by slot."""

    @property
    def window(self) -> Window:
        """The layers it belongs to: all of its engine's, or some."""

    @property
    def capacity(self) -> int:
        """Slots there are."""

    def move(self, source: Slots, target: Slots) -> None:
        """Copy the bits of K and V between slots, for compaction. ``target[i] <= source[i]``."""

    def copy(self, other: "KvCache", source: Slots, target: Slots) -> None:
        """Copy the bits of K and V from slots of another cache to slots of this one.

        Raises ``BadShape`` when the other is of another engine or window.
        """

    @property
    def kv_type(self) -> str:
        """The type of what is stored, one of ``kv_types.KV_TYPES``."""

    def read(self, layer: int, slots: Slots) -> tuple[bytes, bytes]:
        """The stored bytes of K and of V at a layer of the model, row after row."""

    def write(self, layer: int, slots: Slots, k: bytes, v: bytes) -> None:
        """Put stored bytes into slots: what ``read`` gives.

        Raises ``BadShape`` when the lengths aren't of so many rows.
        """


@dataclass(frozen=True, slots=True)
class Segment:
    """The rows of one session in a batch, in order: a parent precedes its children."""

    cache: KvCache
    rows: tuple[EngineRow, ...]


class Engine(Protocol):
    """A loaded window ``[start, end)`` of one model.

    Not thread-safe: one caller at a time. A failed ``forward`` leaves slots it was to write
    undefined and everything else as it was.
    """

    start: int
    end: int
    width: int
    threads: int

    @property
    def numerics(self) -> Numerics:
        """The class; engines may measure it when it is first asked for."""

    def new_cache(self, slots: int, window: Window | None = None) -> KvCache:
        """A cache of ``slots`` rows; memory is touched only as rows are written.

        ``window`` restricts it, and whatever is run with it, to some of the engine's layers.
        """

    def forward(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> tuple[F32, dict[int, F32]]:
        """Run all rows through the window of their caches, which must be the same for all.

        ``states`` is ``[rows, width]``, rows of the segments one after the other, rounded to the
        residual type. Returns the residual after the window's last layer in the same shape and
        rounding, and the residual at each boundary in ``taps`` (boundary b = after b layers of the
        model; ``start < b <= end``). Raises ``ResidualOverflow``.
        """
