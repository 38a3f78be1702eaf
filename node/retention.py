"""What a stage keeps of its rows until the session ends: the bytes it took and sent, their hashes.

That is what makes a dead neighbour harmless: the outputs can be sent again, to a replacement, and
rows that come a second time are recognised by their hash and answered without computing.
"""

from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass

from hearthring.node.cells import ROOM
from hearthring.protocol.errors import UnknownRow
from hearthring.protocol.messages import ROOT, Row
from hearthring.shards.slots import SlotMap
from hearthring.verify.rowhash import joined


@dataclass(slots=True)
class Kept:
    """One row: as it was received, and once it ran, as it was sent; by bytes of its own, as the
    others of its step may be dropped, and by hash.

    ``received`` is there once the sender's signature was checked.
    """

    row: Row
    input: bytes
    received: bytes = b""
    sent: bytes = b""
    wire: bytes = b""


class Retention:
    """The rows of one session by id. Rows arrive in the order of their ids, so do their outputs."""

    def __init__(self) -> None:
        self._kept: dict[int, Kept] = {}

    @property
    def newest(self) -> int:
        """The last row that ran; all living rows before it ran too."""
        return next((i for i in reversed(self._kept) if self._kept[i].sent), ROOT)

    def __contains__(self, row: object) -> bool:
        """Whether a row is kept, run or not."""
        return row in self._kept

    def __getitem__(self, row: int) -> Kept:
        """Raises ``KeyError``."""
        return self._kept[row]

    def ids(self) -> tuple[int, ...]:
        """Every row, in the order of ids."""
        return tuple(self._kept)

    def known(self, rows: Sequence[Row], hashes: Sequence[bytes]) -> frozenset[int]:
        """Which of these rows came before, the same in every bit, and ran.

        None behind the first that differs: what it and all later rows once were is void.
        """
        same = set[int]()
        for row, digest in zip(rows, hashes, strict=True):
            kept = self._kept.get(row.id)
            if kept is None or not kept.sent or kept.row != row or kept.received != digest:
                break
            same.add(row.id)
        return frozenset(same)

    def receive(self, row: Row, wire: bytes, digest: bytes = b"") -> None:
        """A new row has arrived; its hash may come later."""
        self._kept[row.id] = Kept(row, wire, digest)

    def signed(self, ids: Iterable[int], hashes: Iterable[bytes]) -> None:
        """The hashes that their sender signed for rows that have arrived; some may be dropped."""
        for row, digest in zip(ids, hashes, strict=True):
            if (kept := self._kept.get(row)) is not None:
                kept.received = digest

    def sent(self, row: int, digest: bytes, wire: bytes) -> None:
        """A row's output is on its way."""
        kept = self._kept[row]
        kept.sent, kept.wire = digest, wire

    def outputs(self, ids: Iterable[int]) -> list[Kept]:
        """Rows to be sent again. Raises ``UnknownRow`` for one that didn't run."""
        found = [self._kept.get(i) for i in ids]
        ran = [kept for kept in found if kept is not None and kept.sent]
        if len(ran) != len(found):
            raise UnknownRow("a row that isn't retained", field="replay.rows")
        return ran

    def summary(self, ids: Sequence[int]) -> tuple[bytes, bytes]:
        """What rows were, as received and as sent; empty if one of them didn't run."""
        found = [self._kept.get(i) for i in ids]
        ran = [kept for kept in found if kept is not None and kept.sent]
        if len(ran) != len(found):
            return b"", b""
        return joined([kept.received for kept in ran]), joined([kept.sent for kept in ran])

    def drop(self, ids: Iterable[int]) -> None:
        """Forget rows."""
        for row in ids:
            self._kept.pop(row, None)

    def drop_from(self, first: int) -> None:
        """Forget a row and all later ones."""
        self.drop([row for row in self._kept if row >= first])

    def forget_dead(self, alive: SlotMap, others: Container[int]) -> None:
        """Forget rows that aren't ``alive``, nor among ``others``: those that hung on a dropped
        row, or were cancelled. Looked through once half of all are such."""
        if len(self._kept) > ROOM + 2 * alive.live:
            self.drop([row for row in self._kept if row not in alive and row not in others])

    def drop_others(self, ids: Collection[int]) -> None:
        """Forget whatever isn't named."""
        self.drop([row for row in self._kept if row not in ids])
