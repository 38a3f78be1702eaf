"""One client's place in a stage: what it was sent, what it computed, what it signs.

Nothing here does I/O. ``prepare``, ``complete``, ``receipt`` and ``evidence`` run on the engine's
thread, one at a time; only ``cancel`` may be called from elsewhere.
"""

from collections import deque
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from hearthring.protocol import identity
from hearthring.protocol.errors import (
    BadShape,
    Malformed,
    OutOfOrder,
    StaleEpoch,
    TooLarge,
    UnknownRow,
)
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import (
    ROOT,
    Evidence,
    HopTime,
    Open,
    Receipt,
    Row,
    SignedRows,
    Step,
    Tap,
)
from hearthring.protocol.tensors import F32, Residual, bf16_bits, pack, unpack
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.slots import SlotMap
from hearthring.verify import receipts
from hearthring.verify.claims import claim
from hearthring.verify.digest import digests
from hearthring.verify.rowhash import CHUNK, chunk_roots, row_hashes


@dataclass(slots=True)
class _Kept:
    """What is retained of a row until the session ends."""

    position: int
    kind: int
    received: bytes
    sent: bytes = b""
    wire: bytes | memoryview = b""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step that passed every check and is ready to run."""

    step: Step
    rows: tuple[Row, ...]
    dead: tuple[int, ...]
    segment: Segment
    states: F32

    @property
    def size(self) -> tuple[int, int, int]:
        """Slots of the cache, rows, and the highest slot among them."""
        rows = self.segment.rows
        return self.segment.cache.capacity, len(rows), max((row.slot for row in rows), default=0)


class StageSession:
    """The state of one session in one stage."""

    def __init__(self, wish: Open, client: str, engine: Engine, who: Identity) -> None:
        self.wish, self.client, self.last = wish, client, wish.next == client
        self.next_step, self._newest = 1, ROOT
        self._engine, self._who = engine, who
        self._residual = Residual(wish.residual)
        self._model = bytes.fromhex(wish.model_id)
        self._class = bytes.fromhex(engine.numerics.fingerprint)
        self._previous_class = bytes.fromhex(wish.previous_fingerprint)
        self._cache = engine.new_cache(wish.max_rows, (wish.start, wish.end))
        self._slots = SlotMap(wish.max_rows)
        self._kept: dict[int, _Kept] = {}
        self._received: list[SignedRows] = []
        self._cancelled = deque[int]()

    def cancel(self, ids: tuple[int, ...]) -> None:
        """Rows nobody wants; may overtake the steps that carry them. Safe from any thread."""
        self._cancelled.extend(ids)

    def prepare(self, step: Step) -> Prepared:
        """Check a step, apply its commits and drops, and give its rows slots.

        Raises a named ``ProtocolError``; the session can't go on after one.
        """
        wish = self.wish
        if step.epoch != wish.epoch:
            raise StaleEpoch(f"{step.epoch}, the session is in {wish.epoch}", field="step.epoch")
        if step.step_id != self.next_step:
            raise OutOfOrder(f"{step.step_id} instead of {self.next_step}", field="step.step_id")
        if len(step.times) >= LIMITS.hops:  # this stage adds its own
            raise TooLarge(f"{len(step.times)} stages passed", field="step.times")
        if not set(step.dead) <= {row.id for row in step.rows}:
            raise Malformed("rows that aren't in the step", field="step.dead")
        if any(row > self._newest for row in step.drop):
            raise UnknownRow("a drop follows the row that it names", field="step.drop")
        live = step.live
        states = unpack(step.states, len(live), self._engine.width, self._residual)
        self._receive(step, live)
        self.next_step += 1
        self._slots.commit(step.commit)
        self._slots.drop(step.drop)
        for row in step.drop:
            self._kept.pop(row, None)
        placed = self._place(step)
        self._newest = max((row.id for row in step.rows), default=self._newest)
        chosen = [i for i, row in enumerate(live) if row.id in placed]
        rows = tuple(live[i] for i in chosen)
        return Prepared(
            step,
            rows,
            tuple(row.id for row in step.rows if row.id not in placed),
            Segment(self._cache, tuple(placed[row.id] for row in rows)),
            states if len(chosen) == len(live) else states[np.array(chosen, np.int64)],
        )

    def complete(self, prepared: Prepared, output: F32, time: HopTime) -> Step:
        """Sign and retain what the engine made of a step. Raises ``ResidualOverflow``."""
        return self._seal(prepared, pack(output, self._residual), time)

    def _seal(self, prepared: Prepared, wire: bytes, time: HopTime) -> Step:
        wish, rows, step = self.wish, prepared.rows, prepared.step
        hashes = row_hashes(
            self._model,
            self._class,
            wish.end,
            [r.kind for r in rows],
            [r.position for r in rows],
            wire,
            len(rows),
        )
        view, width = memoryview(wire), self._engine.width * self._residual.bytes
        for i, (row, digest) in enumerate(zip(rows, hashes, strict=True)):
            kept = self._kept[row.id]
            kept.sent, kept.wire = digest, view[i * width : (i + 1) * width]
        ids = [row.id for row in rows]
        signed = claim(wish.session, wish.epoch, step.step_id, wish.end, ids, hashes)
        return Step(
            session=wish.session,
            epoch=wish.epoch,
            step_id=step.step_id,
            rows=step.rows,
            states=wire,
            commit=step.commit,
            drop=step.drop,
            dead=prepared.dead,
            want_output=step.want_output,
            signature=self._who.sign(signed),
            times=(*step.times, time),
        )

    def taps(self, prepared: Prepared, tapped: dict[int, F32]) -> list[Tap]:
        """The residuals at inner boundaries that the client asked to see."""
        ids = tuple(row.id for row in prepared.rows)
        return [
            Tap(prepared.step.step_id, boundary, ids, pack(states, self._residual))
            for boundary, states in tapped.items()
            if boundary in self.wish.taps
        ]

    def receipt(self, commit: tuple[int, ...]) -> Receipt | None:
        """Commit the last rows and sign for everything committed. An honest one always does."""
        self._slots.commit(commit)
        wish, kept = self.wish, [self._kept[row.id] for row in self._slots.committed]
        positions = [k.position for k in kept]
        body = receipts.ReceiptBody(
            node=self._who.node_id,
            client=self.client,
            session=wish.session,
            epoch=wish.epoch,
            nonce_hash=wish.nonce_hash,
            model_id=wish.model_id,
            start=wish.start,
            end=wish.end,
            residual=wish.residual,
            numerics=self._engine.numerics.name,
            fingerprint=self._engine.numerics.fingerprint,
            previous=wish.previous,
            previous_fingerprint=wish.previous_fingerprint,
            next=wish.next,
            rows=len(kept),
            in_roots=tuple(chunk_roots(positions, [k.received for k in kept])),
            out_roots=tuple(chunk_roots(positions, [k.sent for k in kept])),
            digests=tuple(self._digests(kept)),
        )
        return receipts.sign(body, self._who)

    def evidence(self) -> Evidence:
        """Everything the stage before signed."""
        return Evidence(tuple(self._received))

    def _receive(self, step: Step, live: tuple[Row, ...]) -> None:
        """Hash the rows, and keep the sender's signature over them. Raises ``BadSignature``."""
        wish, ids = self.wish, tuple(row.id for row in live)
        hashes = row_hashes(
            self._model,
            self._previous_class,
            wish.start,
            [r.kind for r in live],
            [r.position for r in live],
            step.states,
            len(live),
        )
        signed = claim(wish.session, step.epoch, step.step_id, wish.start, ids, hashes)
        identity.verify(wish.previous, signed, step.signature)
        kept = SignedRows(step.epoch, step.step_id, ids, tuple(hashes), step.signature)
        self._received.append(kept)
        for row, digest in zip(live, hashes, strict=True):
            self._kept[row.id] = _Kept(row.position, row.kind, digest)

    def _place(self, step: Step) -> dict[int, EngineRow]:
        """Slots for the rows that are to run, by id."""
        placed = {}
        self._slots.cancel(step.dead)
        while self._cancelled:  # more may come meanwhile
            self._slots.cancel((self._cancelled.popleft(),))
        # Before the first row is placed: moving slots afterwards would leave its path behind.
        if (plan := self._slots.compaction(len(step.rows))) is not None:
            self._cache.move(*plan)
        for row in step.rows:
            entry = self._slots.insert(row.id, row.parent, row.position, Kind(row.kind))
            if entry is not None:
                placed[row.id] = entry
        return placed

    def _digests(self, kept: list[_Kept]) -> list[bytes]:
        rows = b"".join(bytes(k.wire) for k in kept)
        states = unpack(rows, len(kept), self._engine.width, self._residual)
        return digests([bf16_bits(states[at : at + CHUNK]) for at in range(0, len(states), CHUNK)])


def check_wish(wish: Open) -> None:
    """Refuse a wish whose fields can't be meant, before anything is allocated for it."""
    if wish.max_rows < 1:
        raise BadShape("at least one row", field="open.max_rows")
    for name in ("model_id", "fingerprint", "previous_fingerprint"):
        value = getattr(wish, name)
        if len(value) != 2 * sha256().digest_size or not set(value) <= set("0123456789abcdef"):
            raise BadShape("not a SHA-256 in hexadecimal", field=f"open.{name}")
    identity.public_key_of(wish.previous)
    identity.public_key_of(wish.next)
