"""Choosing a route: stages that cover every layer, at the least expected seconds per token.

Pure: records in, route out.
"""

import heapq
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from hearthring.protocol.errors import NoRoute
from hearthring.protocol.records import NodeRecord
from hearthring.protocol.tensors import Residual

HOP_SECONDS = 0.002
"""Assumed cost of one more hop on an unmeasured link; it keeps routes short among equals."""
PARTIAL_ROUTES = 10_000
"""Looked at before the search gives up. One per stage is the rule; hostile records may ask more."""

_RESIDUALS = frozenset(kind.value for kind in Residual)
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class Stage:
    """One window at one node in one route."""

    node: str
    address: str
    start: int
    end: int
    residual: str
    numerics: str
    fingerprint: str


_Partial = tuple[float, int, tuple[tuple[str, int], ...], float, tuple[Stage, ...]]
"""At least this dear in all, minus the layers run, who ran them, what they cost, the stages."""


def find_route(
    records: Sequence[NodeRecord],
    layers: int,
    *,
    rows: int = 1,
    avoid: frozenset[str] = frozenset(),
    one_class: bool = True,
) -> tuple[Stage, ...]:
    """The cheapest route of one residual type, and of one numerics class if there is one.

    Nodes without ``rows`` free KV rows, and those in ``avoid``, are left out. With ``one_class``
    False a route may mix classes. Raises ``NoRoute`` that lists the windows nobody serves.
    """
    usable = [
        r
        for r in records
        if r.free_rows >= rows and r.node not in avoid and r.addresses and _readable(r)
    ]
    groups: dict[tuple[str, str], list[NodeRecord]] = {}
    for record in usable:
        groups.setdefault((record.residual, record.fingerprint), []).append(record)
        if not one_class:
            groups.setdefault((record.residual, ""), []).append(record)
    found = [best for group in groups.values() if (best := _cheapest(group, layers))]
    if found:
        return min(found, key=lambda pair: (pair[0], [s.node for s in pair[1]]))[1]
    missing = missing_windows(usable, layers)
    if missing:
        spans = ", ".join(f"[{start}, {end})" for start, end in missing)
        what = f"nobody serves layers {spans} of {layers}"
        if missing_windows(records, layers) != missing:
            what += " with room for this session"
    else:
        what = (
            "the layers are served, but in residual types or numerics classes that don't match, "
            "or by a node that would be needed twice"
        )
    raise NoRoute(
        what, field="route", mend="start a node with --layers START:END", missing=tuple(missing)
    )


def missing_windows(records: Sequence[NodeRecord], layers: int) -> list[tuple[int, int]]:
    """The windows ``[start, end)`` that no record covers, in order."""
    served = frozenset[int]().union(*(record.layers for record in records))
    missing: list[tuple[int, int]] = []
    for layer in range(layers):
        if layer in served:
            continue
        if missing and missing[-1][1] == layer:
            missing[-1] = missing[-1][0], layer + 1
        else:
            missing.append((layer, layer + 1))
    return missing


def _readable(record: NodeRecord) -> bool:
    """Whether this version knows what the node offers: a newer one's may be of another kind."""
    return record.residual in _RESIDUALS and _SHA256.fullmatch(record.fingerprint) is not None


def _cheapest(records: list[NodeRecord], layers: int) -> tuple[float, tuple[Stage, ...]] | None:
    """Best first: routes so far, in order of what they cost and the least that is still to come.

    A node has one place in a session, so the best way to a boundary may use up the node that is
    needed beyond it; forgetting that rule, a dynamic programme gives the least still to come.
    """
    hops = _hops(records, layers)
    ahead = {layers: 0.0}
    for at in sorted(hops, reverse=True):
        ways = [cost + ahead[cut] for cost, cut, _ in hops[at] if cut in ahead]
        if ways:
            ahead[at] = min(ways)
    begun: _Partial = (ahead.get(0, math.inf), 0, (), 0.0, ())
    waiting, seen = [begun], set[tuple[int, frozenset[str]]]()
    for _ in range(PARTIAL_ROUTES):
        if not waiting:
            return None
        _, left, names, cost, route = heapq.heappop(waiting)
        at, used = -left, frozenset(name for name, _ in names)
        if at == layers:
            return cost, route
        if (at, used) in seen:
            continue  # the one before was cheaper
        seen.add((at, used))
        for price, cut, record in hops.get(at, ()):
            if record.node not in used and cut in ahead:
                total = cost + price
                way = (*names, (record.node, cut)), total, (*route, _stage(record, at, cut))
                heapq.heappush(waiting, (total + ahead[cut], -cut, *way))
    return None


def _hops(records: list[NodeRecord], layers: int) -> dict[int, list[tuple[float, int, NodeRecord]]]:
    """By boundary, what may follow: ``(seconds, the boundary after it, whose)``."""
    windows = [(r, start, min(end, layers)) for r in records for start, end in r.windows]
    cuts = sorted({0, layers}.union(*((start, end) for _, start, end in windows if start < end)))
    hops: dict[int, list[tuple[float, int, NodeRecord]]] = {at: [] for at in cuts}
    seconds = {id(record): _seconds_per_layer(record) for record in records}
    for record, start, end in windows:
        inside = [cut for cut in cuts if start <= cut <= end]
        for at, cut in combinations(inside, 2):
            hops[at].append((HOP_SECONDS + seconds[id(record)] * (cut - at), cut, record))
    return hops


def _seconds_per_layer(record: NodeRecord) -> float:
    """Expected time of one row through a layer of a node's, waiting for others included."""
    seconds = (record.step_seconds + record.row_seconds) / max(1, len(record.layers))
    return seconds * (1 + record.sessions)


def _stage(record: NodeRecord, start: int, end: int) -> Stage:
    return Stage(
        record.node,
        record.addresses[0],
        start,
        end,
        record.residual,
        record.numerics,
        record.fingerprint,
    )
