"""Choosing a route: stages that cover every layer, at the least expected seconds per token.

Pure: records in, route out. ``offers.py`` prices them, ``cheapest.py`` searches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hearthring.client.cheapest import Flags, Hop, Ints, Windows, cheapest
from hearthring.client.offers import HOP_SECONDS, Offers, View
from hearthring.protocol.errors import HearthringError, NoRoute, StageFailed
from hearthring.protocol.records import NodeRecord

__all__ = ["HOP_SECONDS", "Offers", "Stage", "View", "find_cover", "find_route", "missing_windows"]

CLASSES = 64
"""Numerics classes searched, in the order of what they can cost at least: names are free."""


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
    prompt_step_seconds: float = field(default=0.0, compare=False)
    prompt_row_seconds: float = field(default=0.0, compare=False)
    """A step of m prompt rows takes about ``step + m * row``; 0 where it isn't known."""
    prompt_points: tuple[tuple[int, float], ...] = field(default=(), compare=False)
    """What such steps took when they were measured, ``(rows, seconds)``."""
    step_seconds: float = field(default=0.0, compare=False)
    row_seconds: float = field(default=0.0, compare=False)
    """The same of generated rows."""

    def failed(self, error: HearthringError) -> StageFailed:
        """What its session ends with when it fails."""
        where = f"layers {self.start} to {self.end} at {self.node}"
        return StageFailed(f"{where}: {type(error).__name__}: {error}", field="stage")


def find_route(
    records: Sequence[NodeRecord] | Offers,
    layers: int,
    *,
    rows: int = 1,
    avoid: frozenset[str] = frozenset(),
    one_class: bool = True,
    view: View | None = None,
) -> tuple[Stage, ...]:
    """The cheapest route of one residual type, and of one numerics class if there is one.

    Nodes without ``rows`` free KV rows, and those in ``avoid``, are left out. With ``one_class``
    False a route may mix classes. Raises ``NoRoute`` that lists the windows nobody serves.
    """
    return find_cover(
        records, 0, layers, rows=rows, avoid=avoid, one_class=one_class, view=view, whole=layers
    )


def find_cover(
    records: Sequence[NodeRecord] | Offers,
    start: int,
    end: int,
    *,
    rows: int = 1,
    avoid: frozenset[str] = frozenset(),
    residual: str = "",
    fingerprint: str = "",
    one_class: bool = True,
    view: View | None = None,
    whole: int = 0,
) -> tuple[Stage, ...]:
    """The cheapest stages for layers ``[start, end)``, for example in place of one that died.

    ``residual`` and ``fingerprint`` are what they must have; empty: any, but one for all (with
    ``one_class`` False only the residual type). ``whole`` is the model's number of layers, for the
    error's words. Raises ``NoRoute`` as ``find_route`` does.
    """
    view = view or View()
    offers = records if isinstance(records, Offers) else Offers(records)
    usable = offers.usable(rows, avoid, view.relays)
    windows, classes = offers.windows(usable, view)
    best: tuple[float, tuple[Hop, ...]] | None = None
    name = offers.class_names(residual, fingerprint, one_class)
    for bound, chosen in _groups(windows, name[classes], start, end):
        if best is not None and bound >= best[0]:
            break
        found = cheapest(windows.of(chosen), start, end, once=view.once)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
    if best is None:
        raise _no_route(offers, usable, start, end, whole or end)
    return tuple(_stage(offers.records[hop.node], hop) for hop in best[1])


def missing_windows(
    records: Sequence[NodeRecord], end: int, start: int = 0
) -> list[tuple[int, int]]:
    """The windows within ``[start, end)`` that no record covers, in order."""
    served = frozenset[int]().union(*(record.layers for record in records))
    missing: list[tuple[int, int]] = []
    for layer in range(start, end):
        if layer in served:
            continue
        if missing and missing[-1][1] == layer:
            missing[-1] = missing[-1][0], layer + 1
        else:
            missing.append((layer, layer + 1))
    return missing


def _groups(windows: Windows, group: Ints, start: int, end: int) -> list[tuple[float, Ints]]:
    """The windows of each group that covers ``[start, end)``, and a bound; least bound first.

    A route costs at least one visit, and every layer at the smallest price. ``group`` is a number
    for each window; those below zero may not be used.
    """
    order = np.argsort(group, kind="stable")
    order = order[np.searchsorted(group[order], 0) :]
    numbers, firsts = np.unique(group[order], return_index=True)
    if not numbers.size:
        return []
    place = np.searchsorted(numbers, group[order])
    depth = np.zeros((len(numbers), end - start + 1), np.int64)
    np.add.at(depth, (place, np.clip(windows.start[order], start, end) - start), 1)
    np.add.at(depth, (place, np.clip(windows.end[order], start, end) - start), -1)
    covers: list[bool] = (depth.cumsum(axis=1)[:, :-1].min(axis=1) > 0).tolist()
    bounds = np.minimum.reduceat(windows.fixed[order], firsts)
    bounds += np.minimum.reduceat(windows.slope[order], firsts) * (end - start)
    members = np.split(order, firsts[1:])
    able = [at for at in np.argsort(bounds, kind="stable") if covers[at]]
    return [(float(bounds[at]), members[at]) for at in able[:CLASSES]]


def _no_route(offers: Offers, usable: Flags, start: int, end: int, whole: int) -> NoRoute:
    """What is missing, or why what is there doesn't do."""
    able = [offers.records[place] for place in np.flatnonzero(usable)]
    missing = missing_windows(able, end, start)
    if missing:
        spans = ", ".join(f"[{first}, {last})" for first, last in missing)
        what = f"nobody serves layers {spans} of {whole}"
        if missing_windows(offers.records, end, start) != missing:
            what += " with room for this session"
    else:
        what = (
            "the layers are served, but in residual types or numerics classes that don't match, "
            "or by a node that would be needed twice"
        )
    return NoRoute(
        what, field="route", mend="start a node with --layers START:END", missing=tuple(missing)
    )


def _stage(record: NodeRecord, hop: Hop) -> Stage:
    share = (hop.end - hop.start) / max(1, len(record.layers))
    return Stage(
        record.node,
        (record.addresses or record.relay_addresses)[0],
        hop.start,
        hop.end,
        record.residual,
        record.numerics,
        record.fingerprint,
        record.prompt_step_seconds * share,
        record.prompt_row_seconds * share,
        tuple((rows, seconds * share) for rows, seconds in record.prompt_points),
        record.step_seconds * share,
        record.row_seconds * share,
    )
