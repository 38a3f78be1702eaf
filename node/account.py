"""What a session's rows come to: the receipt that a stage signs, and what it keeps for audits."""

from collections.abc import Sequence
from dataclasses import dataclass

from hearthring.node.archive import CellRecord, Record
from hearthring.node.cells import CellBook
from hearthring.node.retention import Kept, Retention
from hearthring.protocol.identity import Identity
from hearthring.protocol.messages import Open, Receipt
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tensors import bf16_bits
from hearthring.shards.engine import Engine, KvCache
from hearthring.shards.slots import SlotMap
from hearthring.verify import receipts
from hearthring.verify.digest import digests
from hearthring.verify.rowhash import CHUNK, chunk_roots


@dataclass(frozen=True, slots=True)
class Account:
    """Gives account of one session out of what it holds; ``wish`` is as the session stands."""

    client: str
    who: Identity
    engine: Engine
    rows: RowType
    cache: KvCache
    slots: SlotMap
    kept: Retention
    cells: CellBook | None

    def receipt(self, wish: Open) -> Receipt:
        """Sign for everything committed."""
        self.settle(whole=True)
        kept = self._committed()
        return receipts.sign(self._body(wish, kept, tuple(self._digests(kept))), self.who)

    def commitment(self, wish: Open, whole: bool) -> Receipt | None:
        """Sign for the full chunks so far, with ``whole`` for all that is committed, without
        digests; None without cells."""
        if self.cells is None:
            return None
        self.settle(whole)
        ids = [row for chunk in self.cells.sealed for row in chunk.ids]
        known = [self.kept[row] for row in (ids if whole else ids[: len(ids) // CHUNK * CHUNK])]
        return receipts.sign(self._body(wish, known, ()), self.who)

    def record(self, wish: Open) -> Record:
        """What was sent for the committed rows, to be opened when they are audited."""
        kept = self._committed()
        wire = b"".join(k.wire for k in kept)
        row_bytes = self.rows.row_bytes(self.engine.width)
        if self.cells is None:
            return Record(self.client, row_bytes, wire)
        cells = CellRecord(
            wish,
            tuple(k.row.kind for k in kept),
            b"".join(k.input for k in kept),
            tuple(k.received for k in kept),
            tuple(k.sent for k in kept),
        )
        return Record(self.client, row_bytes, wire, cells)

    def settle(self, whole: bool) -> None:
        """Commit to the cells of full chunks; with ``whole`` to those of the last one too."""
        if self.cells is None:
            return
        self.cells.seal(
            [k.row for k in self._committed()],
            lambda row: self.kept[row].sent,
            self.cache,
            self.slots.slot,
            self.slots,
            whole,
        )

    def _committed(self) -> list[Kept]:
        return [self.kept[row.id] for row in self.slots.committed]

    def _body(
        self, wish: Open, kept: Sequence[Kept], made: tuple[bytes, ...]
    ) -> receipts.ReceiptBody:
        """A receipt over rows from position 0 on, and their digests."""
        positions = [k.row.position for k in kept]
        roots = self.cells.roots if self.cells is not None else ()
        return receipts.ReceiptBody(
            node=self.who.node_id,
            client=self.client,
            session=wish.session,
            epoch=wish.epoch,
            nonce_hash=wish.nonce_hash,
            model_id=wish.model_id,
            start=wish.start,
            end=wish.end,
            residual=wish.residual,
            numerics=self.engine.numerics.name,
            fingerprint=self.engine.numerics.fingerprint,
            previous=wish.previous,
            previous_fingerprint=wish.previous_fingerprint,
            next=wish.next,
            rows=len(kept),
            in_roots=tuple(chunk_roots(positions, [k.received for k in kept])),
            out_roots=tuple(chunk_roots(positions, [k.sent for k in kept])),
            digests=made,
            cell_roots=roots[: -(-len(kept) // CHUNK)],
            kv=self.cache.kv_type if self.cells is not None else "",
        )

    def _digests(self, kept: Sequence[Kept]) -> list[bytes]:
        rows = b"".join(bytes(k.wire) for k in kept)
        states = self.rows.unpack(rows, len(kept), self.engine.width)
        return digests([bf16_bits(states[at : at + CHUNK]) for at in range(0, len(states), CHUNK)])
