"""A session's cells: what each row was inside the stage, and the commitment to it.

Rows are noted as they run, which costs nothing but references; all hashing waits until 32 committed
rows make a chunk, and until the step that completed it has left. Residuals inside the stage are
kept for the last chunks, as many as a few megabytes hold, since a live check of older rows must run
them again; their hashes are kept for the whole session: a client that takes rows back, or a later
session that begins with the same rows, needs no more.
"""

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

import numpy as np

from hearthring.protocol.messages import Row
from hearthring.shards.engine import KvCache, Slots, Window
from hearthring.shards.slots import SlotMap
from hearthring.shards.tracing import Trace
from hearthring.verify.cells import Column, chunk_root
from hearthring.verify.merkle import HASH_BYTES
from hearthring.verify.rowhash import CHUNK, row_hashes

T = TypeVar("T")
ROOM = 128
"""Rows that are no more and may be kept nevertheless, until the next look."""
KEPT_CHUNKS, KEPT_BYTES = 2, 4 << 20
"""Of each session a stage keeps the residuals of so many chunks for live checks, and of more while
all of them take no more than so many bytes."""


@dataclass(frozen=True, slots=True)
class SealedChunk:
    """Up to 32 committed rows, with the columns of all layers."""

    ids: tuple[int, ...]
    columns: tuple[Column, ...]
    root: bytes


class CellBook:
    """The cells of one session in one window.

    ``model_id`` and ``fingerprint`` are the raw hashes that go into every leaf.
    """

    def __init__(self, window: Window, model_id: bytes, fingerprint: bytes) -> None:
        self.window, self.sealed = window, list[SealedChunk]()
        self._model, self._class = model_id, fingerprint
        self._inside: dict[int, tuple[Trace, int]] = {}
        self._hashes: dict[int, bytes] = {}  # row hashes at boundaries start + 1 .. end - 1

    @property
    def roots(self) -> tuple[bytes, ...]:
        """The root of every sealed chunk."""
        return tuple(chunk.root for chunk in self.sealed)

    def ran(self, ids: Iterable[int], trace: Trace) -> None:
        """Rows have run. ``trace`` is kept, not copied."""
        self._inside.update((row, (trace, index)) for index, row in enumerate(ids))

    def forget_dead(self, alive: SlotMap) -> None:
        """Rows that aren't ``alive`` needn't be kept; looked through once half of them are such."""
        most = ROOM + 2 * alive.live
        if len(self._inside) > most:
            inside = [(row, *at) for row, at in self._inside.items() if row in alive]
            left = Counter(id(trace) for _, trace, _ in inside)
            # A trace is of a whole step: a row that is left of it is kept alone.
            self._inside = {
                row: (trace, index)
                if left[id(trace)] == trace.shape[1]
                else (trace[:, index : index + 1].copy(), 0)
                for row, trace, index in inside
            }
        if len(self._hashes) > most:
            self._hashes = {row: found for row, found in self._hashes.items() if row in alive}

    def known(self, row: int, inside: bytes) -> None:
        """A row wasn't run: an earlier session's has the same cells, with these hashes."""
        self._hashes[row] = inside

    def inside(self, row: int) -> bytes:
        """The hashes of a sealed row, for ``known`` in a later session."""
        return self._hashes[row]

    def residual(self, row: int, boundary: int) -> bytes | None:
        """A residual after ``boundary`` layers, if it is kept still."""
        trace, index = self._inside.get(row, (None, 0))
        return None if trace is None else trace[boundary - self.window[0] - 1, index].tobytes()

    def forget_from(self, first: int) -> None:
        """Row ``first`` and all later ones never were; they may come again."""
        self._keep(row for row in (*self._inside, *self._hashes) if row < first)
        while self.sealed and self.sealed[-1].ids[-1] >= first:
            self.sealed.pop()

    def seal(
        self,
        rows: Sequence[Row],
        sent: Callable[[int], bytes],
        cache: KvCache,
        slot: Callable[[int], int],
        alive: Container[int],
        whole: bool = False,
    ) -> None:
        """Commit to what is new among the committed ``rows``: full chunks, with ``whole`` all.

        ``sent(id)`` is the row hash of what left the stage, ``slot(id)`` where K and V lie in
        ``cache``. Of rows that aren't ``alive`` nothing is kept.
        """
        ids = [row.id for row in rows]
        # Rows that were taken back, or chunks that have grown, are sealed again.
        while self.sealed and self.sealed[-1].ids != tuple(self._chunk(ids, len(self.sealed) - 1)):
            self.sealed.pop()
        at = len(self.sealed) * CHUNK
        if len(rows) - at < (1 if whole else CHUNK):
            return
        while len(rows) - at >= (1 if whole else CHUNK):
            self._seal(rows[at : at + CHUNK], sent, cache, slot)
            at += CHUNK
        old = frozenset(ids[: max(0, (len(self.sealed) - self._kept_chunks()) * CHUNK)])
        self._inside = {r: t for r, t in self._inside.items() if r in alive and r not in old}

    def _kept_chunks(self) -> int:
        trace, _ = next(iter(self._inside.values()), (None, 0))
        if trace is None:
            return KEPT_CHUNKS
        layers, _, size = trace.shape
        return max(KEPT_CHUNKS, KEPT_BYTES // int(layers * size * CHUNK))

    def _seal(
        self,
        rows: Sequence[Row],
        sent: Callable[[int], bytes],
        cache: KvCache,
        slot: Callable[[int], int],
    ) -> None:
        start, end = self.window
        self._hash([row for row in rows if row.id not in self._hashes])
        inner = [self._hashes[row.id] for row in rows]
        slots: Slots = np.array([slot(row.id) for row in rows], np.int64)
        columns = []
        for layer in range(start, end):
            if layer + 1 < end:
                at = (layer - start) * HASH_BYTES
                hashes = tuple(row[at : at + HASH_BYTES] for row in inner)
            else:
                hashes = tuple(sent(row.id) for row in rows)
            k, v = (sha256(data).digest() for data in cache.read(layer, slots))
            columns.append(Column(layer, rows[0].position, hashes, k, v))
        root = chunk_root(columns, self._model, self._class)
        self.sealed.append(SealedChunk(tuple(row.id for row in rows), tuple(columns), root))

    def _hash(self, rows: Sequence[Row]) -> None:
        """Row hashes at the inner boundaries, layer by layer over rows that lie together."""
        start, end = self.window
        kinds, positions = [row.kind for row in rows], [row.position for row in rows]
        parts = [self._inside[row.id] for row in rows]
        found = list[list[bytes]]()
        for layer in range(end - start - 1):
            wire = b"".join(trace[layer, index].data for trace, index in parts)
            boundary = start + layer + 1
            found.append(
                row_hashes(self._model, self._class, boundary, kinds, positions, wire, len(rows))
            )
        for place, row in enumerate(rows):
            self._hashes[row.id] = b"".join(hashes[place] for hashes in found)

    def _keep(self, ids: Iterable[int]) -> None:
        wanted = frozenset(ids)
        self._inside = _only(self._inside, wanted)
        self._hashes = _only(self._hashes, wanted)

    @staticmethod
    def _chunk(ids: Sequence[int], index: int) -> Sequence[int]:
        return ids[index * CHUNK : (index + 1) * CHUNK]


def _only(kept: Mapping[int, T], ids: Collection[int]) -> dict[int, T]:
    return {row: value for row, value in kept.items() if row in ids}
