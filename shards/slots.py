"""The rows of one session: a tree of ids over KV slots. Pure bookkeeping, no tensors.

Row 0 is the root, before the prompt, at position -1; it has no slot. Ids grow and are never used
again. A row's slot is always greater than its parent's, so along every path slots grow with depth:
the order of keys is the order of an attention's sum.

Every method either does all it says or raises and changes nothing.
"""

from bisect import bisect_right, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hearthring.protocol.errors import OutOfOrder, OutOfSlots, QuotaExceeded, UnknownRow
from hearthring.protocol.limits import LIMITS
from hearthring.shards.engine import EngineRow, Kind, Slots

ROOT = 0
TOMBSTONES = LIMITS.session_rows
"""Cancelled rows that may wait to be dropped: as many as a session may have rows."""
REMEMBERED = LIMITS.steps_in_flight * LIMITS.rows_per_step
"""Dead rows that are told from such as never came: more than may be under way to a stage."""


class Committed(NamedTuple):
    """A row of the accepted text."""

    id: int
    position: int
    kind: Kind


@dataclass(slots=True)
class _Trail:
    """Slots by position along one chain. Rows of the chain share the array: ``used`` entries are
    taken and never written again, so a path handed out stays as it was."""

    slots: Slots
    used: int


@dataclass(slots=True)
class _Row:
    parent: int
    position: int
    kind: Kind
    slot: int
    trail: _Trail | None  # None once committed: the tip's trail holds all their slots
    children: list[int] = field(default_factory=list)


class SlotMap:
    """Which row lies in which of ``capacity`` slots, and what each may see."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.committed: list[Committed] = []
        self._rows: dict[int, _Row] = {}
        self._free: list[int] = list(range(capacity))
        self._dead: set[int] = set()
        self._forgotten = ROOT
        """Up to this id, whatever doesn't live is dead: which of them ever came is forgotten."""
        self._tombstones: set[int] = set()
        self._last = ROOT
        self._roots: list[int] = []  # children of the root
        self._trail = _Trail(np.empty(0, np.int64), 0)  # of the committed tip

    @property
    def tip(self) -> int:
        """The last committed row, ``ROOT`` if none is."""
        return self.committed[-1].id if self.committed else ROOT

    @property
    def live(self) -> int:
        """Rows that hold a slot."""
        return len(self._rows)

    def __contains__(self, row_id: object) -> bool:
        """Whether a row holds a slot."""
        return row_id in self._rows

    def slot(self, row_id: int) -> int:
        """The slot of a live row. Raises ``UnknownRow``."""
        return self._live(row_id, "row").slot

    def insert(self, row_id: int, parent: int, position: int, kind: Kind) -> EngineRow | None:
        """Give a new row a slot.

        Returns None, for an empty result, when the row or an ancestor was cancelled or dropped.
        Raises ``OutOfOrder`` for an id that doesn't grow or a position that isn't its parent's
        + 1, ``UnknownRow`` for a parent never seen, and ``OutOfSlots`` when no slot above the
        parent's is free; after ``compaction(rows)`` that means that the cache is full.
        """
        if row_id <= self._last:
            raise OutOfOrder(f"row {row_id} after row {self._last}", field="id")
        if self._is_dead(parent) or (parent not in self._rows and parent in self._tombstones):
            self._last = row_id
            self._bury(row_id)
            return None
        above = None if parent == ROOT else self._live(parent, "parent")
        expected = 0 if above is None else above.position + 1
        if position != expected:
            raise OutOfOrder(f"position {position}, not {expected}", field="position")
        if row_id in self._tombstones:
            self._last = row_id
            self._bury(row_id)
            return None
        index = 0 if above is None else bisect_right(self._free, above.slot)
        if index == len(self._free):
            raise OutOfSlots(f"{len(self._rows)} of {self.capacity} slots taken", field="rows")
        slot = self._free.pop(index)
        before = above.trail if above is not None and above.trail is not None else self._trail
        trail = _extended(before, position, slot)
        self._rows[row_id] = _Row(parent, position, kind, slot, trail)
        self._children(parent).append(row_id)
        self._last = row_id
        return EngineRow(kind, position, slot, trail.slots[: position + 1])

    def commit(self, ids: Iterable[int]) -> None:
        """Extend the committed tip by ``ids``, each the child of the one before.

        What is committed already may be named again. Nothing follows for siblings: they stay until
        they are dropped. Raises ``UnknownRow`` for a row that isn't live, ``OutOfOrder`` for one
        that isn't a child of the tip.
        """
        tip = self.tip
        fresh: dict[int, _Row] = {}
        for row_id in ids:
            row = self._live(row_id, "commit")
            if row.trail is None or row_id in fresh:
                continue
            if row.parent != tip:
                raise OutOfOrder(f"row {row_id} isn't a child of the tip {tip}", field="commit")
            fresh[row_id] = row
            tip = row_id
        for row_id, row in fresh.items():
            assert row.trail is not None
            self._trail, row.trail = row.trail, None
            self.committed.append(Committed(row_id, row.position, row.kind))

    def drop(self, ids: Iterable[int]) -> None:
        """Free rows and all their descendants, and forget their tombstones.

        What is dropped already may be named again. A committed row takes what was committed after
        it along. Raises ``UnknownRow`` for a row neither seen nor cancelled.
        """
        ids = list(ids)
        for row_id in ids:
            if row_id not in self._rows and not self._gone(row_id):
                raise UnknownRow(f"row {row_id} was never seen", field="drop")
        for row_id in ids:
            self._kill(row_id)
            self._tombstones.discard(row_id)

    def rewind(self, first: int) -> None:
        """Forget row ``first`` and all later ones as if they had never come, tombstones included.

        They may be inserted again: after a fail-over a neighbour sends them anew.
        """
        for row_id in [row for row in self._rows if row >= first]:
            self._kill(row_id)
        self._dead = {row for row in self._dead if row < first}
        self._forgotten = min(self._forgotten, max(first - 1, ROOT))
        self._tombstones = {row for row in self._tombstones if row < first}
        self._last = min(self._last, max(first - 1, ROOT))

    def cancel(self, ids: Iterable[int]) -> None:
        """Free rows at once, and leave tombstones for those that are still to come.

        A cancellation may overtake the stream of rows, so ids never seen are allowed; they and
        their descendants will be dead on arrival, until an ordered ``drop`` names them. Raises
        ``QuotaExceeded`` for more than ``TOMBSTONES`` that wait for that.
        """
        ids = tuple(ids)
        fresh = {row_id for row_id in ids if not self._is_dead(row_id)}
        if len(self._tombstones | fresh) > TOMBSTONES:
            raise QuotaExceeded(f"more than {TOMBSTONES} wait to be dropped", field="cancel.ids")
        for row_id in ids:
            if self._is_dead(row_id):
                continue
            if row_id in self._rows:
                self._kill(row_id)
            self._tombstones.add(row_id)

    def compaction(self, coming: int = 1) -> tuple[Slots, Slots] | None:
        """Make sure that the next ``coming`` inserts find slots, wherever their parents are.

        Call it before the inserts of a step: rows handed out earlier are void if it returns a
        plan. That is ``(source, target)`` for ``KvCache.move``, to be done before anything runs;
        the map itself holds the new slots already, in the old order. None: nothing need move.
        More rows than fit are met by ``OutOfSlots`` when they are inserted.
        """
        coming = min(coming, len(self._free))
        if coming <= 0 or self._free[-coming] == self.capacity - coming:
            return None
        source = np.array(sorted(row.slot for row in self._rows.values()), np.int64)
        target = np.arange(len(source), dtype=np.int64)
        renamed = np.zeros(self.capacity, np.int64)  # slots of the dead are never read again
        renamed[source] = target
        trails = {id(trail): trail for row in self._rows.values() if (trail := row.trail)}
        trails[id(self._trail)] = self._trail
        for trail in trails.values():
            fresh = np.empty_like(trail.slots)  # paths handed out stay as they are
            fresh[: trail.used] = renamed[trail.slots[: trail.used]]
            trail.slots = fresh
        for row in self._rows.values():
            row.slot = int(renamed[row.slot])
        self._free = list(range(len(source), self.capacity))
        moved = source != target
        return source[moved], target[moved]

    def _live(self, row_id: int, what: str) -> _Row:
        if row_id not in self._rows:
            state = "was dropped" if self._is_dead(row_id) else "was never seen"
            raise UnknownRow(f"row {row_id} {state}", field=what)
        return self._rows[row_id]

    def _is_dead(self, row_id: int) -> bool:
        if row_id in self._dead:
            return True
        return ROOT < row_id <= self._forgotten and row_id not in self._rows

    def _gone(self, row_id: int) -> bool:
        return self._is_dead(row_id) or row_id in self._tombstones

    def _bury(self, row_id: int) -> None:
        """Note that a row is dead. Half of what is noted is forgotten once it is too much."""
        if self._is_dead(row_id):
            return
        self._dead.add(row_id)
        if len(self._dead) > 2 * REMEMBERED:
            kept = sorted(self._dead)[-REMEMBERED:]
            self._forgotten = max(self._forgotten, min(kept[0] - 1, self._last))
            self._dead = set(kept)

    def _children(self, parent: int) -> list[int]:
        return self._roots if parent == ROOT else self._rows[parent].children

    def _kill(self, row_id: int) -> None:
        """Free a row and its descendants; a row that isn't live is only marked."""
        if row_id not in self._rows:
            self._bury(row_id)
            return
        self._children(self._rows[row_id].parent).remove(row_id)
        if self._rows[row_id].trail is None:  # committed: its trail keeps what is left
            del self.committed[self._rows[row_id].position :]
        doomed = [row_id]
        while doomed:
            dying = doomed.pop()
            row = self._rows.pop(dying)
            self._bury(dying)
            insort(self._free, row.slot)
            doomed += row.children


def _extended(trail: _Trail, length: int, slot: int) -> _Trail:
    """The trail of a child at position ``length``: the parent's own while there is room behind
    it, a copy where a branch forks off."""
    if trail.used != length or length == len(trail.slots):
        slots = np.empty(max(64, 2 * length), np.int64)
        slots[:length] = trail.slots[:length]
        trail = _Trail(slots, length)
    trail.slots[length] = slot
    trail.used = length + 1
    return trail
