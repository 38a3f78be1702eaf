"""The cheapest way to cover layers with windows. Pure: arrays in, hops out.

A window is a line: a visit costs ``fixed`` seconds and ``slope`` seconds for each layer run, at any
part of the window. So the best way on from a boundary depends on the boundary alone, and a dynamic
programme over boundaries is exact. A node that may be visited once only breaks that: then the
programme's result is a lower bound that guides a best-first search.
"""

import heapq
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PARTIAL_ROUTES = 10_000
"""Looked at before a search gives up. One per stage is the rule; hostile records may ask more."""
RIVALS = 16
"""Nodes remembered for one hop. Exact for routes of so many stages: whoever comes later in the
order can only be needed when all before it are used elsewhere in the same route."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Windows:
    """Equally long arrays, one entry for each window ``[start, end)`` of a node."""

    node: Ints
    """Who serves it: any number, equal for windows of one node."""
    start: Ints
    end: Ints
    fixed: Floats
    slope: Floats

    def of(self, chosen: Flags | Ints) -> "Windows":
        """Some of the windows."""
        return Windows(
            self.node[chosen],
            self.start[chosen],
            self.end[chosen],
            self.fixed[chosen],
            self.slope[chosen],
        )


@dataclass(frozen=True, slots=True)
class Hop:
    """Layers ``[start, end)`` at a node."""

    node: int
    start: int
    end: int


def cheapest(
    windows: Windows, start: int, end: int, *, once: bool
) -> tuple[float, tuple[Hop, ...]] | None:
    """The least seconds to cover ``[start, end)``, and how; ``None`` if it isn't possible.

    With ``once`` every node has one hop at most. Equals are settled in favour of fewer hops, then
    of the window that comes first.
    """
    windows = windows.of((windows.end > start) & (windows.start < end))
    if not windows.node.size:
        return None
    windows = Windows(
        windows.node,
        np.maximum(windows.start, start),
        np.minimum(windows.end, end),
        windows.fixed,
        windows.slope,
    )
    cuts = np.unique(np.concatenate([windows.start, windows.end, [start, end]]))
    prices = _prices(windows, cuts)
    ahead, step = _ahead(prices)
    if not math.isfinite(ahead[0]):
        return None
    hops, at = list[Hop](), 0
    while at < len(cuts) - 1:
        hop, _ = _ranked(windows, int(cuts[at]), int(cuts[step[at]]), 1)[0]
        hops.append(hop)
        at = step[at]
    if not once or len({hop.node for hop in hops}) == len(hops):
        return ahead[0], tuple(hops)
    return _search(windows, cuts, prices, ahead)


def _prices(windows: Windows, cuts: Ints) -> Floats:
    """``[boundary, boundary]``: the least seconds of one hop between them, infinite if nobody can.

    For each length all windows are priced at once, and a window serves every hop inside it: the
    minimum over earlier starts and later ends.
    """
    size = len(cuts)
    key = np.searchsorted(cuts, windows.start) * size + np.searchsorted(cuts, windows.end)
    order = np.argsort(key, kind="stable")
    fixed, slope = windows.fixed[order], windows.slope[order]
    keys, firsts = np.unique(key[order], return_index=True)
    lengths = cuts[None, :] - cuts[:, None]
    longest = int((windows.end - windows.start).max())
    prices = np.full((size, size), math.inf)
    table = np.empty((size, size))
    for length in np.unique(lengths[(lengths > 0) & (lengths <= longest)]):
        table.fill(math.inf)
        table.flat[keys] = np.minimum.reduceat(fixed + slope * length, firsts)
        np.minimum.accumulate(table, axis=0, out=table)
        inside = np.minimum.accumulate(table[:, ::-1], axis=1)[:, ::-1]
        here = lengths == length
        prices[here] = inside[here]
    return prices


def _ahead(prices: Floats) -> tuple[list[float], list[int]]:
    """By boundary: the least seconds to the last one, and the boundary to go to first."""
    size = len(prices)
    ahead, step = [0.0] * size, [0] * size
    left = np.zeros(size)
    for at in range(size - 2, -1, -1):
        ways = prices[at, at + 1 :] + left[at + 1 :]
        # The farthest of equals: fewer hops.
        best = size - 1 - int(ways[::-1].argmin())
        ahead[at], step[at] = float(ways[best - at - 1]), best
        left[at] = ahead[at]
    return ahead, step


def _ranked(windows: Windows, start: int, end: int, most: int) -> list[tuple[Hop, float]]:
    """The cheapest hops ``[start, end)`` of different nodes, cheapest first."""
    able = np.flatnonzero((windows.start <= start) & (windows.end >= end))
    costs = windows.fixed[able] + windows.slope[able] * (end - start)
    ranked: dict[int, float] = {}
    for place in np.argsort(costs, kind="stable"):
        ranked.setdefault(int(windows.node[able[place]]), float(costs[place]))
        if len(ranked) == most:
            break
    return [(Hop(node, start, end), cost) for node, cost in ranked.items()]


_Partial = tuple[float, int, int, float, tuple[Hop, ...]]
"""At least this dear in all, minus the place reached, a serial number, the cost yet, the hops."""


def _search(
    windows: Windows, cuts: Ints, prices: Floats, ahead: list[float]
) -> tuple[float, tuple[Hop, ...]] | None:
    """Best first: routes so far, in order of what they cost and the least that is still to come."""
    last, serial = len(cuts) - 1, 0
    rivals: dict[tuple[int, int], list[tuple[Hop, float]]] = {}
    waiting: list[_Partial] = [(ahead[0], 0, 0, 0.0, ())]
    seen = set[tuple[int, frozenset[int]]]()
    for _ in range(PARTIAL_ROUTES):
        if not waiting:
            return None
        _, left, _, cost, route = heapq.heappop(waiting)
        at, used = -left, frozenset(hop.node for hop in route)
        if at == last:
            return cost, route
        if (at, used) in seen:
            continue  # the one before was cheaper
        seen.add((at, used))
        for to in range(at + 1, last + 1):
            if not math.isfinite(prices[at, to] + ahead[to]):
                continue
            if (at, to) not in rivals:
                rivals[at, to] = _ranked(windows, int(cuts[at]), int(cuts[to]), RIVALS)
            for hop, price in rivals[at, to]:
                if hop.node not in used:
                    serial += 1
                    total = cost + price
                    way = (total + ahead[to], -to, serial, total, (*route, hop))
                    heapq.heappush(waiting, way)
    return None
