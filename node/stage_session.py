"""One client's place in a stage: what it was sent, what it computed, what it signs.

Nothing here does I/O. ``prepare``, ``complete``, ``receipt`` and ``evidence`` run on the engine's
thread, one at a time; only ``cancel`` may be called from elsewhere.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from hearthring.node.account import Account
from hearthring.node.admission import admit
from hearthring.node.archive import Record
from hearthring.node.cells import CellBook
from hearthring.node.opening import Live
from hearthring.node.prefix import PrefixCursor, PrefixTree
from hearthring.node.retention import Retention
from hearthring.node.reuse import reuse
from hearthring.node.signatures import Signatures
from hearthring.protocol.errors import (
    HearthringError,
    Malformed,
    OutOfOrder,
    QuotaExceeded,
    StaleEpoch,
    TooLarge,
    UnknownRow,
)
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import (
    ROOT,
    SHARE_ALL,
    SHARE_NONE,
    Evidence,
    HopTime,
    Open,
    Receipt,
    Replay,
    Reroute,
    Rerouted,
    Row,
    Step,
    Tap,
)
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tensors import F32, pack
from hearthring.shards.engine import Engine, Segment
from hearthring.shards.slots import SlotMap
from hearthring.shards.tracing import Trace, TracingEngine
from hearthring.verify.claims import Check, claim
from hearthring.verify.rowhash import CHUNK
from hearthring.verify.sealing import Seal


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step that passed every check and is ready to run.

    ``rows`` are those that will be sent on; the ``fresh`` ones among them have to be computed, the
    others are retained from before, or left by an earlier session. ``segment`` and ``states`` are
    of the fresh ones. ``check``, of the sender's signature, may be made while the rows run, and is
    before anything that came of them leaves.
    """

    step: Step
    rows: tuple[Row, ...]
    fresh: tuple[Row, ...]
    dead: tuple[int, ...]
    segment: Segment
    states: F32
    check: Check

    @property
    def size(self) -> tuple[int, int]:
        """Rows, and the highest slot among them."""
        rows = self.segment.rows
        return len(rows), max((row.slot for row in rows), default=0)


class StageSession:
    """The state of one session in one stage."""

    def __init__(self, wish: Open, client: str, engine: Engine, who: Identity) -> None:
        self.wish, self.client = wish, client
        self.next_step, self._newest = 1, ROOT
        self._jump = wish.epoch > 0  # an epoch's first step sets the count
        self._repeatable = set[int]()  # rows that may come once more in this epoch
        self._engine, self._who = engine, who
        self._rows = RowType.parse(wish.residual)
        self._model = bytes.fromhex(wish.model_id)
        self._class = bytes.fromhex(engine.numerics.fingerprint)
        self._previous_class = bytes.fromhex(wish.previous_fingerprint)
        self._cache = engine.new_cache(wish.max_rows, (wish.start, wish.end))
        self._sealing: Seal | None = None
        self._slots = SlotMap(wish.max_rows)
        self._kept = Retention()
        self._received = Signatures(LIMITS.signed_rows * wish.max_rows)
        self._cancelled = deque[int]()
        self._prefix: PrefixCursor | None = None
        self._cells: CellBook | None = None
        self._openings = 0
        if wish.cells and isinstance(engine, TracingEngine):
            self._cells = CellBook((wish.start, wish.end), self._model, self._class)
        held = self._cache, self._slots, self._kept, self._cells
        self._account = Account(client, who, engine, self._rows, *held)

    def share(self, tree: PrefixTree) -> None:
        """Take rows that are known from earlier sessions out of a tree, as the client allows.

        A session with taps doesn't: of rows that aren't computed, no inner boundary is known.
        """
        wish = self.wish
        if wish.sharing != SHARE_NONE and not wish.taps:
            owner = "" if wish.sharing == SHARE_ALL else self.client
            self._prefix = PrefixCursor(tree, (wish.start, wish.end), owner)

    def leave(self) -> None:
        """Leave the committed rows to later sessions. The last thing that a session does."""
        if self._prefix is not None:
            ids = [row.id for row in self._slots.committed]
            kept = [self._kept[row] for row in ids]
            slots = np.array([self._slots.slot(row) for row in ids], np.int64)
            received, wires = [k.received for k in kept], [k.wire for k in kept]
            self._account.settle(whole=True)
            cells = [self._cells.inside(row) for row in ids] if self._cells is not None else ()
            self._prefix.keep(received, wires, self._cache, slots, cells)

    @property
    def traced(self) -> bool:
        """Whether its rows are to be run with a trace."""
        return self._cells is not None

    @property
    def unsettled(self) -> bool:
        """Whether ``settle`` has something to do. From any thread, which may be told too late."""
        cells = self._cells
        return cells is not None and len(self._slots.committed) >= (len(cells.sealed) + 1) * CHUNK

    def settle(self) -> None:
        """What can wait until a step has left: commit to the cells of full chunks."""
        if self.unsettled:
            self._account.settle(whole=False)

    @property
    def last(self) -> bool:
        """Whether its rows go to the client."""
        return self.wish.next == self.client

    def cancel(self, ids: tuple[int, ...]) -> None:
        """Rows nobody wants; may overtake the steps that carry them. Safe from any thread.

        Raises ``QuotaExceeded`` for more than a session may have.
        """
        if len(self._cancelled) + len(ids) > LIMITS.session_rows:
            raise QuotaExceeded(f"more than {LIMITS.session_rows}", field="cancel.ids")
        self._cancelled.extend(ids)

    def prepare(self, step: Step) -> Prepared:
        """Check a step, apply its commits and drops, and give its rows slots.

        All is checked but the sender's signature: ``confirm`` does that. Raises a named
        ``ProtocolError``. The session can't go on after one, except for ``StaleEpoch``: a step of
        an epoch that is over changes nothing.
        """
        wish = self.wish
        if step.epoch < wish.epoch:
            raise StaleEpoch(f"{step.epoch}, the session is in {wish.epoch}", field="step.epoch")
        if step.epoch > wish.epoch:
            raise OutOfOrder(f"{step.epoch} hasn't begun here", field="step.epoch")
        ahead = step.step_id - self.next_step
        if ahead < 0 or (ahead and not self._jump):
            raise OutOfOrder(f"{step.step_id} instead of {self.next_step}", field="step.step_id")
        if len(step.times) >= LIMITS.hops:  # this stage adds its own
            raise TooLarge(f"{len(step.times)} stages passed", field="step.times")
        ids = [row.id for row in step.rows]
        if not set(step.dead).issubset(ids):
            raise Malformed("rows that aren't in the step", field="step.dead")
        # Rows that came before are recognised by their ids, each of which must mean one row.
        if any(one >= after for one, after in pairwise(ids)):
            raise OutOfOrder("ids that don't grow", field="id")
        if not set(step.drop).isdisjoint(ids) or any(row > self._newest for row in step.drop):
            raise UnknownRow("a drop follows the row that it names", field="step.drop")
        live = step.live
        states = self._rows.unpack(step.states, len(live), self._engine.width)
        check, known = self._receive(step, live)
        self.next_step, self._jump = step.step_id + 1, False
        try:
            placed = admit(self._slots, step, self._taken(), known, self._cache.move)
        except HearthringError:
            check.confirm()  # what is wrong is the sender's fault only if it signed it
            raise
        self._kept.drop(step.drop)
        self._kept.drop(row.id for row in live if row.id not in placed and row.id not in known)
        self._newest = max((row.id for row in step.rows), default=self._newest)
        reused = frozenset[int]()
        if self._prefix is not None:
            held = self._kept, self._cache, self._cells
            reused = reuse(self._prefix, live, placed, *held)
        chosen = [i for i, row in enumerate(live) if row.id in placed and row.id not in reused]
        fresh = tuple(live[i] for i in chosen)
        return Prepared(
            step,
            tuple(row for row in live if row.id in placed or row.id in known),
            fresh,
            tuple(row.id for row in step.rows if row.id not in placed and row.id not in known),
            Segment(self._cache, tuple(placed[row.id] for row in fresh)),
            states if len(chosen) == len(live) else states[np.array(chosen, np.int64)],
            check,
        )

    def confirm(self, prepared: Prepared) -> None:
        """Make sure of the sender's signature, and keep it. Raises ``BadSignature``.

        Before this has returned, a prepared step must leave no trace outside the session, which
        ends if it raises. Raises ``QuotaExceeded`` for more than evidence may be.
        """
        signed = prepared.check.confirm()
        self._kept.signed(signed.ids, signed.hashes)
        self._received.keep(signed, self._kept)

    def complete(
        self, prepared: Prepared, output: F32, time: HopTime, trace: Trace | None = None
    ) -> Step:
        """Sign and retain what the engine made of a confirmed step. Raises ``ResidualOverflow``."""
        wire = self._rows.pack(output)
        if self._cells is not None and trace is not None:
            self._cells.ran((row.id for row in prepared.fresh), trace)
            self._cells.forget_dead(self._slots)
        if len(prepared.fresh) < len(prepared.rows):
            wire = self._among_retained(prepared, wire)
        sent = self._seal(prepared, wire, time)
        self._kept.forget_dead(self._slots, self._repeatable)
        return sent

    def _among_retained(self, prepared: Prepared, fresh: bytes) -> bytes:
        """A step's whole output, of which only the fresh rows were computed."""
        width, computed = self._rows.row_bytes(self._engine.width), memoryview(fresh)
        places = {row.id: i * width for i, row in enumerate(prepared.fresh)}
        return b"".join(
            computed[places[row.id] : places[row.id] + width]
            if row.id in places
            else self._kept[row.id].wire
            for row in prepared.rows
        )

    def _seal(self, prepared: Prepared, wire: bytes, time: HopTime) -> Step:
        wish, rows, step = self.wish, prepared.rows, prepared.step
        if self._sealing is None:
            about = wish.session, wish.epoch, wish.end, self._model, self._class
            self._sealing = Seal(self._who, *about)
        hashes, signature = self._sealing.put(step.step_id, rows, wire)
        view, width = memoryview(wire), self._rows.row_bytes(self._engine.width)
        for i, (row, digest) in enumerate(zip(rows, hashes, strict=True)):
            self._kept.sent(row.id, digest, bytes(view[i * width : (i + 1) * width]))
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
            signature=signature,
            times=(*step.times, time),
            boundary=wish.end,
        )

    # -- fail-over -------------------------------------------------------------------------------

    def reroute(self, order: Reroute) -> Rerouted:
        """Begin a new epoch: other neighbours, and no rows but those the client names.

        Raises ``StaleEpoch`` for one that isn't later than this one, ``UnknownRow`` or
        ``OutOfOrder`` for rows that can't be committed.
        """
        if order.epoch <= self.wish.epoch:
            raise StaleEpoch(f"{order.epoch} after {self.wish.epoch}", field="reroute.epoch")
        named = frozenset((*order.committed, *order.live))
        self._slots.drop([row for row in self._kept.ids() if row not in named])
        self._kept.drop_others(frozenset(row for row in named if row in self._slots))
        newest = self._kept.newest
        self._slots.commit(row for row in order.committed if row <= newest)
        self._cancelled.clear()
        self._previous_class = bytes.fromhex(order.previous_fingerprint)
        self._jump, self._repeatable, self._sealing = True, set(self._kept.ids()), None
        self.wish = replace(
            self.wish,
            epoch=order.epoch,
            previous=order.previous,
            previous_fingerprint=order.previous_fingerprint,
            next=order.next,
            next_address=order.next_address,
            silent=False,
        )
        compared = [row for row in order.committed if row <= order.compare]
        return Rerouted(order.epoch, newest, *self._kept.summary(compared))

    def replay(self, order: Replay) -> Step:
        """Retained rows as a step of this epoch, signed anew. Raises ``UnknownRow``."""
        wish, rows = self.wish, self._kept.outputs(order.rows)
        ids = [kept.row.id for kept in rows]
        hashes = [kept.sent for kept in rows]
        signed = claim(wish.session, wish.epoch, order.step_id, wish.end, ids, hashes)
        return Step(
            session=wish.session,
            epoch=wish.epoch,
            step_id=order.step_id,
            rows=tuple(kept.row for kept in rows),
            states=b"".join(kept.wire for kept in rows),
            signature=self._who.sign(signed),
            boundary=wish.end,
        )

    def taps(self, prepared: Prepared, tapped: dict[int, F32]) -> list[Tap]:
        """The residuals at inner boundaries that the client asked to see."""
        ids = tuple(row.id for row in prepared.fresh)
        return [
            Tap(prepared.step.step_id, boundary, ids, pack(states, self._rows.residual))
            for boundary, states in tapped.items()
            if boundary in self.wish.taps
        ]

    def receipt(self, commit: tuple[int, ...]) -> Receipt | None:
        """Commit the last rows and sign for everything committed. An honest one always does."""
        self._slots.commit(commit)
        return self._account.receipt(self.wish)

    def record(self) -> Record | None:
        """What it sent for the committed rows, to be opened when they are audited."""
        return self._account.record(self.wish)

    def commitment(self, whole: bool) -> Receipt | None:
        """Sign for what is committed so far, as ``Account.commitment``."""
        return self._account.commitment(self.wish, whole)

    def inside(self) -> Live:
        """What can be shown of it; a little more often than it has chunks.

        Raises ``QuotaExceeded``.
        """
        if self._cells is None:
            raise UnknownRow("no cells were committed to", field="cells.session")
        self._openings += 1
        if self._openings > len(self._cells.sealed) + LIMITS.openings:
            raise QuotaExceeded("opened more often than it has chunks", field="cells.session")
        self._account.settle(whole=False)
        window = self.wish.start, self.wish.end
        sources = self._cells, self._kept, self._slots, self._cache, self._engine
        return Live(window, (self._model, self._class), *sources, self._rows)

    def evidence(self) -> Evidence:
        """Everything the stage before signed."""
        return self._received.evidence(self._kept)

    def _receive(self, step: Step, live: tuple[Row, ...]) -> tuple[Check, frozenset[int]]:
        """Keep the rows that the sender has signed.

        Returns the check of its signature, and those that are here already. At the first that comes
        again with other bytes, it and everything behind it is dropped; both signatures stay as
        evidence. Where no row can be here already, hashing is left to whoever checks.
        """
        wish, known, hashes = self.wish, frozenset[int](), tuple[bytes, ...]()
        about = wish.start, self._model, self._previous_class
        check = Check(wish.previous, step, live, *about)
        count = sum(row.id in self._repeatable for row in live)
        if count or (self._prefix is not None and not self._prefix.lost):
            hashes = check.hashes()
        if count:  # ids grow, so these come first
            known = self._kept.known(live[:count], hashes[:count])
            self._forget_from(live, known)
        view, size = memoryview(step.states), self._rows.row_bytes(self._engine.width)
        for i, row in enumerate(live):
            if row.id not in known:
                wire = view[i * size : (i + 1) * size]
                self._kept.receive(row, bytes(wire), hashes[i] if hashes else b"")
        return check, known

    def _forget_from(self, live: tuple[Row, ...], known: frozenset[int]) -> None:
        """Of rows that came again, drop the first that differs, and everything behind it."""
        self._repeatable -= known
        other = next((r.id for r in live if r.id in self._repeatable), None)
        if other is not None:
            self._slots.rewind(other)
            self._kept.drop_from(other)
            if self._cells is not None:
                self._cells.forget_from(other)
            self._repeatable = {row for row in self._repeatable if row < other}

    def _taken(self) -> Iterator[int]:
        """The rows that were cancelled until now; more may come meanwhile."""
        while self._cancelled:
            yield self._cancelled.popleft()
