"""What a stage opened of its cells, held against what it signed.

Every opened byte must lead to the stage's receipt: residuals by their row hashes, stored K and V
by the hashes in their column, columns by a path to the chunk's root; the rows a stage took and sent
are those under ``in_roots`` and ``out_roots``. Whether they are *true* is for
``verify/cell_check.py``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from hearthring.protocol.cells import OpenedColumn
from hearthring.protocol.errors import BadOpening
from hearthring.protocol.row_type import RowType
from hearthring.verify import cells, merkle
from hearthring.verify.draw import Cell
from hearthring.verify.receipts import ReceiptBody
from hearthring.verify.rowhash import CHUNK, row_hashes


@dataclass(frozen=True, slots=True)
class Promise:
    """What an opening is held against.

    ``kinds``: of every row whose residual may be opened; ``body`` may cover more. ``width``: values
    of a residual; ``kv_bytes``: of a stored K (or V) row, which follows from the model and the type
    that the receipt names.
    """

    body: ReceiptBody
    kinds: Sequence[int]
    width: int
    kv_bytes: int

    def positions(self, chunk: int) -> int:
        """Rows in a chunk."""
        return max(0, min(CHUNK, self.body.rows - chunk * CHUNK))

    def rows_at(self, boundary: int) -> RowType:
        """What residuals are at a boundary: where they were sent, as they were sent."""
        sent = RowType.parse(self.body.residual)
        edge = boundary in (self.body.start, self.body.end)
        return sent if edge else RowType(sent.residual)

    def class_at(self, boundary: int) -> str:
        """The class whose rows cross a boundary: at the first, that of who sent them."""
        return (
            self.body.previous_fingerprint if boundary == self.body.start else self.body.fingerprint
        )


def needed(cell_list: Iterable[Cell], start: int) -> dict[tuple[int, int], set[str]]:
    """Which columns, ``(boundary, chunk)``, an opening of these cells must hold, and what of them.

    ``stored``: K and V; ``hashes``: of the residuals; the residuals themselves, by position, are
    those of ``residuals``.
    """
    wanted: dict[tuple[int, int], set[str]] = {}
    for layer, position in cell_list:
        for chunk in range(position // CHUNK + 1):
            wanted.setdefault((layer + 1, chunk), set()).add("stored")
        wanted[layer + 1, position // CHUNK].add("hashes")
        wanted.setdefault((layer, position // CHUNK), set()).add("hashes")
    return wanted


def residuals(cell_list: Iterable[Cell]) -> dict[tuple[int, int], tuple[int, ...]]:
    """Positions whose residuals, below and above each cell, must be opened: by place."""
    wanted: dict[tuple[int, int], set[int]] = {}
    for layer, position in cell_list:
        for boundary in (layer, layer + 1):
            wanted.setdefault((boundary, position // CHUNK), set()).add(position)
    return {place: tuple(sorted(positions)) for place, positions in wanted.items()}


class Opening:
    """Columns that were proven to be what a receipt commits to, by ``(boundary, chunk)``.

    Raises ``BadOpening``, which names the place, for anything else.
    """

    def __init__(self, promise: Promise, columns: Iterable[OpenedColumn]) -> None:
        self._promise = promise
        self._columns: dict[tuple[int, int], OpenedColumn] = {}
        self._rows: dict[tuple[int, int], bytes] = {}
        self.bytes = 0
        """Opened bytes: residuals, K and V."""
        for column in columns:
            self._take(column)

    def hash(self, boundary: int, position: int) -> bytes:
        """The row hash of a residual. Raises ``BadOpening`` if it wasn't opened."""
        column = self._columns.get((boundary, position // CHUNK))
        if column is None or not column.hashes:
            raise _missing("hashes", boundary, position)
        return column.hashes[position % CHUNK]

    def residual(self, boundary: int, position: int) -> bytes:
        """The bytes of a residual. Raises ``BadOpening`` if they weren't opened."""
        row = self._rows.get((boundary, position))
        if row is None:
            raise _missing("residuals", boundary, position)
        return row

    def stored(self, layer: int, last: int) -> tuple[bytes, bytes]:
        """K and V of positions 0 to ``last`` at a layer. Raises ``BadOpening``."""
        parts = []
        for chunk in range(last // CHUNK + 1):
            column = self._columns.get((layer + 1, chunk))
            if column is None or not column.k:
                raise _missing("K and V", layer + 1, chunk * CHUNK)
            parts.append(column)
        size = (last + 1) * self._promise.kv_bytes
        k, v = b"".join(part.k for part in parts), b"".join(part.v for part in parts)
        return k[:size], v[:size]

    def _take(self, column: OpenedColumn) -> None:
        body = self._promise.body
        chunk, rest = divmod(column.first, CHUNK)
        count = self._promise.positions(chunk)
        place = column.boundary, chunk
        if rest or not count or not body.start <= column.boundary <= body.end:
            raise BadOpening("no column of this stage", field=_where(column.boundary, column.first))
        if place in self._columns:
            raise BadOpening("opened twice", field=_where(column.boundary, column.first))
        if column.hashes and len(column.hashes) != count:
            raise BadOpening("other rows than signed", field=_where(column.boundary, column.first))
        if column.boundary == body.start:
            self._check_root(column, body.in_roots[chunk], "took")
        else:
            self._check_column(column, chunk, count)
            if column.boundary == body.end and column.hashes:
                self._check_root(column, body.out_roots[chunk], "sent")
        self._columns[place] = column
        self._check_rows(column)
        self.bytes += len(column.rows) + len(column.k) + len(column.v)

    def _check_root(self, column: OpenedColumn, root: bytes, did: str) -> None:
        if merkle.root(column.hashes) != root:
            raise BadOpening(
                f"not the rows that it signed it {did}", field=_where(column.boundary, column.first)
            )

    def _check_column(self, column: OpenedColumn, chunk: int, count: int) -> None:
        """Whether the column leads to its chunk's root."""
        body, size = self._promise.body, count * self._promise.kv_bytes
        for stored in (column.k, column.v):
            if stored and len(stored) != size:
                raise BadOpening(
                    f"{len(stored)} bytes of K or V, not {size}",
                    field=_where(column.boundary, column.first),
                )
        joined = b"".join(column.hashes)
        leaf = cells.leaf(
            bytes.fromhex(body.model_id),
            bytes.fromhex(body.fingerprint),
            (column.boundary - 1, column.first, count),
            sha256(joined).digest() if column.hashes else column.residuals,
            sha256(column.k).digest() if column.k else column.k_hash,
            sha256(column.v).digest() if column.v else column.v_hash,
        )
        index, layers = column.boundary - 1 - body.start, body.end - body.start
        if not merkle.verify_path(leaf, index, layers, column.path, body.cell_roots[chunk]):
            raise BadOpening(
                "not the cells that it committed to", field=_where(column.boundary, column.first)
            )

    def _check_rows(self, column: OpenedColumn) -> None:
        """Whether opened residuals are those of the row hashes."""
        body = self._promise.body
        size = self._promise.rows_at(column.boundary).row_bytes(self._promise.width)
        where = _where(column.boundary, column.first)
        if len(column.rows) != len(column.positions) * size:
            raise BadOpening("a part of a residual", field=where)
        if not column.positions:
            return
        inside = range(column.first, column.first + len(column.hashes))
        if any(position not in inside for position in column.positions):
            raise BadOpening("a residual without its hash", field=where)
        if max(column.positions) >= len(self._promise.kinds):
            raise BadOpening("a residual that wasn't asked for", field=where)
        hashes = row_hashes(
            bytes.fromhex(body.model_id),
            bytes.fromhex(self._promise.class_at(column.boundary)),
            column.boundary,
            [self._promise.kinds[position] for position in column.positions],
            column.positions,
            column.rows,
            len(column.positions),
        )
        for place, (position, digest) in enumerate(zip(column.positions, hashes, strict=True)):
            if digest != column.hashes[position - column.first]:
                raise BadOpening("another residual than committed to", field=where)
            row = column.rows[place * size : (place + 1) * size]
            self._rows[column.boundary, position] = row


def _where(boundary: int, position: int) -> str:
    return f"boundary {boundary}, from position {position}"


def _missing(what: str, boundary: int, position: int) -> BadOpening:
    return BadOpening(f"{what} weren't opened", field=_where(boundary, position))
