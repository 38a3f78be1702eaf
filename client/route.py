"""Choosing a route: stages that cover every layer, at the least expected seconds per token.

Pure: records in, route out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hearthring.protocol.errors import NoRoute
from hearthring.protocol.records import NodeRecord

HOP_SECONDS = 0.002
"""Assumed cost of one more hop on an unmeasured link; it keeps routes short among equals."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One window at one node in one route."""

    node: str
    address: str
    start: int
    end: int
    residual: str
    numerics: str
    fingerprint: str


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
    usable = [r for r in records if r.free_rows >= rows and r.node not in avoid and r.addresses]
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
        what = "the layers are served, but in residual types or numerics classes that don't match"
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


def _cheapest(records: list[NodeRecord], layers: int) -> tuple[float, tuple[Stage, ...]] | None:
    """Dynamic programme over boundaries: the best way to have run layers ``[0, b)``."""
    windows = [(r, start, end) for r in records for start, end in r.windows if start < layers]
    cuts = {0, layers} | {min(cut, layers) for _, *pair in windows for cut in pair}
    best: dict[int, tuple[float, tuple[Stage, ...]]] = {0: (0.0, ())}
    for at in sorted(cuts):
        if at not in best:
            continue
        cost, route = best[at]
        for record, start, end in windows:
            if not start <= at < end or any(stage.node == record.node for stage in route):
                continue  # one place per node and session
            for cut in cuts:
                if at < cut <= min(end, layers):
                    total = cost + HOP_SECONDS + _seconds(record, cut - at)
                    if cut not in best or total < best[cut][0] - 1e-9:
                        best[cut] = total, (*route, _stage(record, at, cut))
    return best.get(layers)


def _seconds(record: NodeRecord, layers: int) -> float:
    """Expected time of one row through some of a node's layers, waiting for others included."""
    share = layers / max(1, len(record.layers))
    return (record.step_seconds + record.row_seconds) * share * (1 + record.sessions)


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
