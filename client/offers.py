"""Records as arrays, priced: what a visit and a layer of every offered window are expected to cost.

Links between two nodes that the client never sees are taken to be as slow as both nodes' own links
to the world, which is where home networks are slow. So a price belongs to one node, and the search
(``cheapest.py``) needs no pairs.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from hearthring.client.cheapest import Flags, Floats, Ints, Windows
from hearthring.client.peers import PeerTable
from hearthring.protocol.records import NodeRecord
from hearthring.protocol.tensors import Residual

HOP_SECONDS = 0.002
"""Handling and an unmeasured link of one more hop; it keeps routes short among equals."""
RELAY_SECONDS = 0.03
"""What a visit through a relay takes longer: 68 ms a round trip were measured where the direct way
takes 40."""

_RESIDUALS = frozenset(kind.value for kind in Residual)
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class View:
    """What a client knows, and wants, beside the records.

    ``weight`` tells a node's reputation: 1 is neutral, 0.5 makes it count as twice as slow, 0 rules
    it out. Prices within the fraction ``spread`` of each other count as equal, and ``seed`` decides
    among them, so that many clients don't all rush to one node: a route costs at most
    ``1 + spread`` times the least. ``once`` allows a node one stage of a route; without it a
    route may come back to a node, where that is cheaper. ``relays`` allows
    nodes that are reached through a relay only.
    """

    peers: PeerTable = field(default_factory=PeerTable)
    weight: Callable[[str], float] | None = None
    row_bytes: int = 0
    spread: float = 0.0
    seed: int = 0
    once: bool = True
    relays: bool = False


class Offers:
    """The records of one model, made into arrays once for many questions."""

    def __init__(self, records: Sequence[NodeRecord]) -> None:
        # In order of names, so that equals are settled the same for every order of records.
        self.records = sorted(records, key=attrgetter("node"))
        classes: dict[tuple[str, str], int] = {}
        table = np.array([_numbers(record, classes) for record in self.records], np.float64)
        table = table.reshape(-1, 9).T
        spans = [(n, *window) for n, r in enumerate(self.records) for window in r.windows]
        self.classes = tuple(classes)
        self._free, self._class, self._reach = table[0], table[1].astype(np.int64), table[2]
        self._step, self._row, self._sessions, self._layers = table[3:7]
        self._up, self._down = table[7:9]
        self._node, self._start, self._end = np.array(spans, np.int64).reshape(-1, 3).T
        self._places = {record.node: place for place, record in enumerate(self.records)}
        known = [_readable(kind) for kind in self.classes]
        self._readable = np.array([*known, False], np.bool_)[self._class]

    def class_names(self, residual: str, fingerprint: str, one_class: bool) -> Ints:
        """By class: a number, equal for those that may stand in one route; -1 for those that may
        not stand in any. An empty word matches all."""
        names: dict[tuple[str, ...], int] = {}
        numbers = [
            names.setdefault(kind if one_class else kind[:1], len(names))
            if residual in ("", kind[0]) and fingerprint in ("", kind[1])
            else -1
            for kind in self.classes
        ]
        return np.array(numbers, np.int64)

    def usable(self, rows: int, avoid: frozenset[str], relays: bool) -> Flags:
        """By record: whether it has so many free KV rows, can be reached and is understood."""
        fit: Flags = (self._free >= rows) & (self._reach >= (1 if relays else 2)) & self._readable
        if avoid:
            fit[[self._places[node] for node in avoid if node in self._places]] = False
        return fit

    def windows(self, usable: Flags, view: View) -> tuple[Windows, Ints]:
        """Priced windows of the usable records, and the class of each."""
        fixed, slope = self._prices(view)
        if view.weight is not None:
            weights = np.array([view.weight(record.node) for record in self.records], np.float64)
            usable = usable & (weights > 0)
            scale = 1 / np.where(weights > 0, weights, 1.0)
            fixed, slope = fixed * scale, slope * scale
        if view.spread:
            draw = np.random.default_rng(view.seed).random(len(self.records))
            scale = 1 + view.spread * draw
            fixed, slope = fixed * scale, slope * scale
        chosen = np.flatnonzero(usable[self._node])
        node = self._node[chosen]
        windows = Windows(node, self._start[chosen], self._end[chosen], fixed[node], slope[node])
        return windows, self._class[node]

    def _prices(self, view: View) -> tuple[Floats, Floats]:
        """By record: seconds of a visit, and seconds of one generated row for each layer run.

        A stage runs the rows of all its sessions as one batch, so a row takes as long as a batch of
        them, after half of the one before it on average.
        """
        batch = self._step + self._row * (1 + self._sessions)
        before = np.where(self._sessions > 0, self._step + self._row * self._sessions, 0.0)
        slope = (batch + before / 2) / np.maximum(1, self._layers)
        fixed = np.full(len(self.records), HOP_SECONDS)
        fixed += np.where(self._reach == 1, RELAY_SECONDS, 0.0)
        for speed in (self._up, self._down):
            fixed += view.row_bytes / np.where(speed > 0, speed, np.inf)
        if not len(view.peers):
            return fixed, slope
        nearest = view.peers.nearest()
        for name, peer in view.peers:
            place = self._places.get(name)
            if place is None:
                continue
            fixed[place] += max(0.0, peer.round_trip - nearest)
            if peer.speed and not self._down[place]:
                fixed[place] += view.row_bytes / peer.speed
            trust = view.peers.trust(peer)
            slope[place] += (peer.pace - slope[place]) * trust
        return fixed, slope


def _numbers(record: NodeRecord, classes: dict[tuple[str, str], int]) -> tuple[float, ...]:
    windows = record.windows
    layers = windows[0][1] - windows[0][0] if len(windows) == 1 else len(record.layers)
    return (
        record.free_rows,
        classes.setdefault((record.residual, record.fingerprint), len(classes)),
        2 if record.addresses else 1 if record.relay_addresses else 0,
        record.step_seconds,
        record.row_seconds,
        record.sessions,
        layers,
        record.link_up,
        record.link_down,
    )


def _readable(kind: tuple[str, str]) -> bool:
    """Whether this version knows what is offered: a newer one's may be of another kind."""
    return kind[0] in _RESIDUALS and _SHA256.fullmatch(kind[1]) is not None
