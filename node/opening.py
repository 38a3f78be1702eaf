"""Opening cells: which columns to show of a session, and where their bytes come from.

An open session has its K and V, and the residuals of its last chunks; older rows are run again, a
few at once, which the K and V before them make possible. Of a session that has ended a stage keeps
what came in: rows have the same bits whenever they are run, so running them again, a chunk at a
time between other sessions' steps, gives the cells that it committed to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from hearthring.node.archive import CellRecord
from hearthring.node.cells import CellBook, SealedChunk
from hearthring.node.retention import Kept, Retention
from hearthring.protocol.cells import OpenedColumn
from hearthring.protocol.errors import LayersOutOfRange, TooLarge, UnknownRow
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import PROMPT, Row
from hearthring.protocol.row_type import RowType
from hearthring.shards.engine import Engine, EngineRow, Kind, KvCache, Segment, Window
from hearthring.shards.slots import SlotMap
from hearthring.shards.tracing import TracingEngine
from hearthring.verify import merkle
from hearthring.verify.draw import Cell
from hearthring.verify.opening import needed, residuals
from hearthring.verify.rowhash import CHUNK

TOGETHER = 8
"""Rows that an open session runs again at once: few enough that nobody's step waits for long."""


class Inside(Protocol):
    """What can be shown of a session's rows, by position."""

    @property
    def window(self) -> Window:
        """Its layers."""

    @property
    def model_and_class(self) -> tuple[bytes, bytes]:
        """The raw hashes that go into leaves."""

    @property
    def sealed(self) -> Sequence[SealedChunk]:
        """The chunks that are committed to."""

    def received(self, chunk: int) -> tuple[bytes, ...]:
        """Row hashes of what came in."""

    def stored(self, layer: int, chunk: int) -> tuple[bytes, bytes]:
        """K and V rows of a chunk."""

    def residual(self, boundary: int, position: int) -> bytes:
        """A residual. Raises ``UnknownRow`` if it isn't kept."""


def check_cells(
    cells: Sequence[tuple[int, int]], window: Window, rows: int, row_bytes: int
) -> tuple[Cell, ...]:
    """The cells that a peer asks for, of ``rows`` that may be asked for, ``row_bytes`` each.

    Raises ``LayersOutOfRange``, ``UnknownRow``, or ``TooLarge`` for more residuals than may be held
    ready for one opening.
    """
    for layer, position in cells:
        if not window[0] <= layer < window[1]:
            raise LayersOutOfRange(f"layer {layer}", field="cells.layer")
        if position >= rows:
            raise UnknownRow(f"position {position} isn't committed to", field="cells.position")
    asked = tuple(Cell(*cell) for cell in cells)
    size = sum(map(len, residuals(asked).values())) * row_bytes
    if size > LIMITS.opening_bytes:
        raise TooLarge(f"{size} bytes of residuals", field="cells.cells")
    return asked


def opened(inside: Inside, cells: Sequence[Cell]) -> Iterator[OpenedColumn]:
    """The columns that show these cells, the last one marked. Each is made when it is asked for.

    Raises ``UnknownRow`` for what isn't there any more.
    """
    start, _ = inside.window
    wanted, rows = sorted(needed(cells, start).items()), residuals(cells)
    for place, ((boundary, chunk), what) in enumerate(wanted, 1):
        positions = rows.get((boundary, chunk), ())
        wire = b"".join(inside.residual(boundary, position) for position in positions)
        last = place == len(wanted)
        if boundary == start:
            yield OpenedColumn(
                boundary,
                chunk * CHUNK,
                hashes=inside.received(chunk),
                positions=positions,
                rows=wire,
                last=last,
            )
            continue
        columns = _chunk(inside, chunk).columns
        column = columns[boundary - 1 - start]
        leaves = [one.leaf(*inside.model_and_class) for one in columns]
        k, v = inside.stored(boundary - 1, chunk) if "stored" in what else (b"", b"")
        yield OpenedColumn(
            boundary,
            chunk * CHUNK,
            hashes=column.rows if "hashes" in what else (),
            residuals=b"" if "hashes" in what else column.residuals,
            k=k,
            k_hash=b"" if k else column.k,
            v=v,
            v_hash=b"" if v else column.v,
            path=tuple(merkle.path(leaves, boundary - 1 - start)),
            positions=positions,
            rows=wire,
            last=last,
        )


def _chunk(inside: Inside, chunk: int) -> SealedChunk:
    if chunk >= len(inside.sealed):
        raise UnknownRow(f"position {chunk * CHUNK} isn't committed to", field="cells.position")
    return inside.sealed[chunk]


@dataclass(frozen=True, slots=True)
class Live:
    """The inside of an open session. To be used on the engine's thread, between steps."""

    window: Window
    model_and_class: tuple[bytes, bytes]
    book: CellBook
    kept: Retention
    slots: SlotMap
    cache: KvCache
    engine: Engine
    rows: RowType
    again: dict[tuple[int, int], bytes] = field(default_factory=dict)
    """Residuals of rows that were run again, by boundary and position: those that will be shown."""
    shown: dict[int, list[int]] = field(default_factory=dict)
    """By position: the inner boundaries at which it will be shown."""
    wanted: list[int] = field(default_factory=list)
    """Positions that will be shown and weren't run again, the last one first."""

    def expect(self, cells: Sequence[Cell]) -> None:
        """These will be shown: rows that must be run again for them can run together."""
        start, end = self.window
        for (boundary, _), positions in residuals(cells).items():
            for position in positions if start < boundary < end else ():
                self.shown.setdefault(position, []).append(boundary)
        self.wanted.extend(sorted(self.shown, reverse=True))

    @property
    def row_bytes(self) -> int:
        """Bytes of a residual inside the stage."""
        return RowType(self.rows.residual).row_bytes(self.engine.width)

    @property
    def sealed(self) -> Sequence[SealedChunk]:
        return self.book.sealed

    def received(self, chunk: int) -> tuple[bytes, ...]:
        return tuple(self._row(row).received for row in self._ids(chunk))

    def stored(self, layer: int, chunk: int) -> tuple[bytes, bytes]:
        slots = np.array([self.slots.slot(row) for row in self._ids(chunk)], np.int64)
        return self.cache.read(layer, slots)

    def residual(self, boundary: int, position: int) -> bytes:
        row = self._ids(position // CHUNK)[position % CHUNK]
        if boundary == self.window[0]:
            return self._row(row).input
        if boundary == self.window[1]:
            return self._row(row).wire
        found = self.book.residual(row, boundary)
        if found is not None:
            return found
        if (boundary, position) not in self.again:
            self._run_again(position)
        return self.again[boundary, position]

    def _run_again(self, position: int) -> None:
        """Run a row once more, and some of those that will be needed: all that they take is their
        input and the K and V before them."""
        together = {position}
        while self.wanted and len(together) < TOGETHER:
            other = self.wanted.pop()
            if (self.shown[other][0], other) not in self.again and self._is_lost(other):
                together.add(other)
        positions = sorted(together)
        chunks = range(positions[-1] // CHUNK + 1)
        ids = [row for chunk in chunks for row in self._ids(chunk)]
        path = np.array([self.slots.slot(row) for row in ids[: positions[-1] + 1]], np.int64)
        # Prompt rows first: a kernel that widens the weights does it once for all of a pass, and
        # such rows, where they don't follow each other, are of one pass only as segments.
        positions.sort(key=lambda at: self._row(ids[at]).row.kind != PROMPT)
        kept, own = [self._row(ids[at]) for at in positions], path[positions]
        wire = b"".join(one.input for one in kept)
        entries = [
            EngineRow(Kind(one.row.kind), at, int(path[at]), path[: at + 1])
            for at, one in zip(positions, kept, strict=True)
        ]
        prompt = sum(one.row.kind == PROMPT for one in kept)
        parts = [(entry,) for entry in entries[:prompt]] + [tuple(entries[prompt:])]
        segments = tuple(Segment(self.cache, part) for part in parts if part)
        # An engine that isn't exact might store other bits than were committed to.
        layers = range(*self.window)
        stored = [self.cache.read(layer, own) for layer in layers]
        assert isinstance(self.engine, TracingEngine)
        states = self.rows.unpack(wire, len(positions), self.engine.width)
        trace = self.engine.forward_traced(segments, states).trace
        for layer, (k, v) in zip(layers, stored, strict=True):
            self.cache.write(layer, own, k, v)
        for index, at in enumerate(positions):
            for boundary in self.shown[at]:
                inner = trace[boundary - self.window[0] - 1, index]
                self.again[boundary, at] = inner.tobytes()

    def _is_lost(self, position: int) -> bool:
        """Whether what a row was inside isn't kept any more."""
        row = self._ids(position // CHUNK)[position % CHUNK]
        return self.book.residual(row, self.window[0] + 1) is None

    def _ids(self, chunk: int) -> tuple[int, ...]:
        return _chunk(self, chunk).ids

    def _row(self, row: int) -> Kept:
        if row not in self.kept:  # a new epoch began between two columns, and took it back
            raise UnknownRow(f"row {row} was taken back meanwhile", field="cells.position")
        return self.kept[row]


class Rebuilt:
    """The inside of a session that has ended, from its record.

    To be used on the engine's thread: ``advance`` until it returns False, a chunk at a time. Only
    the residuals that ``cells`` need are kept; what left the stage is shown as it was ``sent``.
    """

    def __init__(
        self, engine: Engine, record: CellRecord, sent: bytes, cells: Sequence[Cell]
    ) -> None:
        assert isinstance(engine, TracingEngine)
        wish = record.wish
        self.window = wish.start, wish.end
        self.model_and_class = (
            bytes.fromhex(wish.model_id),
            bytes.fromhex(engine.numerics.fingerprint),
        )
        self._engine, self._record, self._sent = engine, record, sent
        self._row_type = RowType.parse(wish.residual)
        self._slots = np.arange(len(record.kinds), dtype=np.int64)
        self._cache = engine.new_cache(len(record.kinds), self.window)
        self._book = CellBook(self.window, *self.model_and_class)
        self._rows: list[Row] = []
        self._kept: dict[tuple[int, int], bytes] = {}
        self._wanted: dict[int, list[int]] = {}
        for (boundary, _), positions in residuals(cells).items():
            for position in positions:
                self._wanted.setdefault(position, []).append(boundary)

    def advance(self) -> bool:
        """Run the next chunk. Whether there are more."""
        record, first = self._record, len(self._rows)
        kinds = record.kinds[first : first + CHUNK]
        size = len(record.wire) // len(record.kinds)
        wire = record.wire[first * size : (first + len(kinds)) * size]
        states = self._row_type.unpack(wire, len(kinds), self._engine.width)
        positions = range(first, first + len(kinds))
        entries = tuple(
            EngineRow(Kind(kind), at, at, self._slots[: at + 1])
            for at, kind in zip(positions, kinds, strict=True)
        )
        assert isinstance(self._engine, TracingEngine)
        trace = self._engine.forward_traced((Segment(self._cache, entries),), states).trace
        rows = [Row(p + 1, p, p, kind) for p, kind in zip(positions, kinds, strict=True)]
        for index, position in enumerate(positions):
            for boundary in self._wanted.get(position, ()):
                if boundary == self.window[0]:
                    row = wire[index * size : (index + 1) * size]
                elif boundary == self.window[1]:
                    row = self._sent[position * size : (position + 1) * size]
                else:
                    row = trace[boundary - self.window[0] - 1, index].tobytes()
                self._kept[boundary, position] = row
        self._rows += rows
        self._book.ran((row.id for row in rows), trace)
        self._book.seal(
            self._rows,
            lambda row: record.sent[row - 1],
            self._cache,
            lambda row: row - 1,
            (),
            whole=True,
        )
        return len(self._rows) < len(record.kinds)

    @property
    def sealed(self) -> Sequence[SealedChunk]:
        return self._book.sealed

    def received(self, chunk: int) -> tuple[bytes, ...]:
        return self._record.received[chunk * CHUNK : (chunk + 1) * CHUNK]

    def stored(self, layer: int, chunk: int) -> tuple[bytes, bytes]:
        return self._cache.read(layer, self._slots[chunk * CHUNK : (chunk + 1) * CHUNK])

    def residual(self, boundary: int, position: int) -> bytes:
        return self._kept[boundary, position]
