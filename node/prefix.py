"""Rows that earlier sessions left behind, found again by what was received for them.

A stage sees no tokens. It knows a row by the hash of what came in (``verify/rowhash.py``), which
covers model, sender's class, boundary, kind, position and every bit. Rows that follow the same rows
from position 0 have the same keys and values, and the same output: within a class a row's bits
depend on its own path only. So they are copied, not computed, and signed anew.

The tree's edges are runs: rows that followed each other in one session and were new to the tree.
A row's name is a hash chained along its path, so a lookup is a step in a dictionary, and a run may
branch off in the middle of another. Runs that nothing branches off from go first, least recently
used first. Nothing here is safe to call from two threads.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from hearthring.protocol.messages import ROOT, Row
from hearthring.shards.engine import KvCache, Slots, Window


@dataclass(slots=True, eq=False)
class _Run:
    """Rows in slots 0, 1, 2 … of a cache of their own, what was sent for each, and their names.

    ``cells``: hashes of what each was inside the stage, where its session noted them.
    """

    cache: KvCache
    wires: tuple[bytes, ...]
    cells: tuple[bytes, ...]
    names: tuple[bytes, ...]
    parent: "_Run | None"
    branches: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """Where one row lies: ``slot`` of ``cache``; ``wire`` is what was sent for it.

    ``cells``: the hashes of ``CellBook.inside``, if they were noted.
    """

    cache: KvCache
    slot: int
    wire: bytes
    cells: bytes | None


class PrefixTree:
    """The rows kept by one stage.

    ``new_cache(rows, window)`` makes room for a run. ``limit`` may be changed at any time, from
    any thread; ``trim`` then sees to it.
    """

    def __init__(self, new_cache: Callable[[int, Window], KvCache], limit: int) -> None:
        self.limit, self.rows = limit, 0
        self._new_cache = new_cache
        self._where: dict[bytes, tuple[_Run, int]] = {}
        self._runs: OrderedDict[int, _Run] = OrderedDict()  # by id(), least recently used first

    def root(self, window: Window, owner: str) -> bytes:
        """The name before the first row. Sessions of different ``owner``s share nothing."""
        start, end = window
        return sha256(f"hearthring/prefix/1 {start} {end} {owner}".encode()).digest()

    @staticmethod
    def name(before: bytes, received: bytes) -> bytes:
        """The name of a row by that of the row before it and its received hash."""
        return sha256(before + received).digest()

    def find(self, name: bytes) -> Found | None:
        """A kept row."""
        place = self._where.get(name)
        if place is None:
            return None
        run, index = place
        self._touch(run)
        cells = run.cells[index] if run.cells else None
        return Found(run.cache, index, run.wires[index], cells)

    def keep(
        self,
        root: bytes,
        window: Window,
        received: Sequence[bytes],
        wires: Sequence[bytes],
        source: KvCache,
        slots: Slots,
        cells: Sequence[bytes] = (),
    ) -> None:
        """Copy the rows of a path, from position 0 on, that the tree doesn't hold yet.

        ``slots`` says where they lie in ``source``, ``cells`` what they were inside, if that was
        noted. As many as the limit has room for, once older runs are gone.
        """
        before, parent, known, names = root, None, 0, list[bytes]()
        for digest in received:
            before = self.name(before, digest)
            place = self._where.get(before)
            if place is None:
                names.append(before)
            else:
                parent, known = place[0], known + 1
                self._touch(parent)
        if parent is not None:
            parent.branches += 1  # holds it while others make room
        count = min(len(names), self._make_room(len(names)))
        if count <= 0:
            if parent is not None:
                parent.branches -= 1
            return
        cache = self._new_cache(count, window)
        cache.copy(source, slots[known : known + count], np.arange(count, dtype=np.int64))
        kept = tuple(wires[known : known + count])
        inside = tuple(cells[known : known + count])
        run = _Run(cache, kept, inside, tuple(names[:count]), parent)
        self._runs[id(run)] = run
        self._where.update((name, (run, index)) for index, name in enumerate(run.names))
        self.rows += count

    def trim(self) -> None:
        """Give up rows beyond the limit."""
        self._make_room(0)

    def _make_room(self, rows: int) -> int:
        """Drop runs until ``rows`` more fit or nothing is left to drop; returns what does fit."""
        while self.rows + rows > self.limit:
            idle = next((run for run in self._runs.values() if not run.branches), None)
            if idle is None:
                break
            del self._runs[id(idle)]
            for name in idle.names:
                del self._where[name]
            if idle.parent is not None:
                idle.parent.branches -= 1
            self.rows -= len(idle.names)
        return max(0, self.limit - self.rows)

    def _touch(self, run: _Run) -> None:
        self._runs.move_to_end(id(run))


class PrefixCursor:
    """Where a session stands in the tree: as long as all its rows were found, it goes on."""

    def __init__(self, tree: PrefixTree, window: Window, owner: str) -> None:
        self._tree, self._window = tree, window
        self._root = self._name = tree.root(window, owner)
        self._position, self._row = 0, ROOT  # what comes next, and after which row
        self._lost = False

    @property
    def lost(self) -> bool:
        """Whether nothing that may come is in the tree."""
        return self._lost

    def follow(self, row: Row, received: bytes) -> Found | None:
        """The kept row that equals this one; after the first that isn't there, none is."""
        if self._lost or row.position != self._position or row.parent != self._row:
            self._lost = True
            return None
        self._name = self._tree.name(self._name, received)
        found = self._tree.find(self._name)
        self._lost = found is None
        self._position, self._row = row.position + 1, row.id
        return found

    def keep(
        self,
        received: Sequence[bytes],
        wires: Sequence[bytes],
        cache: KvCache,
        slots: Slots,
        cells: Sequence[bytes] = (),
    ) -> None:
        """Keep the committed rows of the session, from position 0 on."""
        self._tree.keep(self._root, self._window, received, wires, cache, slots, cells)
