"""What a stage keeps of sessions that ended: rows it took and sent, for audits that may follow.

Bounded in bytes and time. When room is short, the oldest record of whoever has most goes first, so
that nobody can push out the records of others. A record is of one place: a session may have had
several at this node, of different windows.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from hearthring.protocol.errors import QuotaExceeded, UnknownSession
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import Open


@dataclass(frozen=True, slots=True)
class CellRecord:
    """What came in for the committed rows of a session, by position, and hashes of either side.

    From it a stage's cells can be computed again. ``wire``: the rows in the wish's residual type.
    """

    wish: Open
    kinds: tuple[int, ...]
    wire: bytes
    received: tuple[bytes, ...]
    sent: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """The committed rows of one session as they were sent, ``row_bytes`` each, by position.

    ``cells``: what came in, if the receipt commits to cells.
    """

    client: str
    row_bytes: int
    wire: bytes
    cells: CellRecord | None = None

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return len(self.wire) + (len(self.cells.wire) if self.cells is not None else 0)


@dataclass(slots=True)
class _Kept:
    record: Record
    until: float
    askers: set[str] = field(default_factory=set)
    cell_askers: set[str] = field(default_factory=set)


class Archive:
    """Records by ``places.place_key``. ``clock`` is in seconds."""

    def __init__(
        self,
        limit: int = LIMITS.archive_bytes,
        window: float = LIMITS.audit_window,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit, self._window, self._clock = limit, window, clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()  # oldest first
        self._bytes = Counter[str]()

    def __len__(self) -> int:
        """Records kept now."""
        self._expire()
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes kept."""
        return self._bytes.total()

    def keep(self, place: bytes, record: Record) -> None:
        """Keep a record, instead of an earlier one of the same place.

        One that is larger than all the room there is isn't kept, nor one of no rows: there is
        nothing to open, and no bound on how many there may be.
        """
        self._expire()
        self._drop(place)
        if not 0 < record.size <= self._limit:
            return
        self._kept[place] = _Kept(record, self._clock() + self._window)
        self._bytes[record.client] += record.size
        while self.size > self._limit:
            (most, _), *_ = self._bytes.most_common(1)
            self._drop(next(p for p, kept in self._kept.items() if kept.record.client == most))

    def client_of(self, place: bytes) -> str:
        """Whose session it was. Raises ``UnknownSession``."""
        return self._find(place).record.client

    def open(self, place: bytes, asker: str) -> Record:
        """Hand a record out, to each asker once.

        Raises ``UnknownSession`` when there is none (any more), ``QuotaExceeded`` the second time.
        """
        kept = self._find(place)
        if asker in kept.askers or len(kept.askers) >= LIMITS.openings:
            raise QuotaExceeded("opened already", field="rows.session")
        kept.askers.add(asker)
        return kept.record

    def open_cells(self, place: bytes, asker: str) -> tuple[Record, CellRecord]:
        """Hand out what its cells come from, to each asker once; raises as ``open``."""
        kept = self._find(place)
        if kept.record.cells is None:
            raise UnknownSession("no cells were committed to", field="cells.session")
        if asker in kept.cell_askers or len(kept.cell_askers) >= LIMITS.openings:
            raise QuotaExceeded("opened already", field="cells.session")
        kept.cell_askers.add(asker)
        return kept.record, kept.record.cells

    def holds(self, place: bytes) -> bool:
        """Whether there is a record of a place."""
        self._expire()
        return place in self._kept

    def _find(self, place: bytes) -> _Kept:
        self._expire()
        kept = self._kept.get(place)
        if kept is None:
            raise UnknownSession("no record of it here, or no longer", field="rows.session")
        return kept

    def _expire(self) -> None:
        now = self._clock()
        while self._kept and (first := next(iter(self._kept))) and self._kept[first].until <= now:
            self._drop(first)

    def _drop(self, place: bytes) -> None:
        kept = self._kept.pop(place, None)
        if kept is not None:
            client = kept.record.client
            self._bytes[client] -= kept.record.size
            if self._bytes[client] <= 0:
                del self._bytes[client]
