"""Which stages take the place of those that are lost."""

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from hearthring.client.classes import Classes
from hearthring.client.route import Stage, View, find_cover
from hearthring.protocol.errors import NoRoute
from hearthring.protocol.records import NodeRecord

AVOID_SECONDS, AVOID_MOST = 15.0, 240.0
"""How long a node is avoided after its first failure, and at most after many."""
DOUBT = 30.0
"""How much slower than it is a node counts after a failure, and again after each further one."""
PATIENCE = 30.0
"""Seconds without any whole route after which a request fails."""


def _avoid_seconds(times: int) -> float:
    """How long a node is avoided that has failed so many times."""
    return min(AVOID_SECONDS * 2.0 ** (times - 1), AVOID_MOST)


Look = Callable[[bool], Awaitable[list[NodeRecord]]]
"""The model's records: those at hand, or with ``True`` as they are now."""


@dataclass(slots=True)
class Avoided:
    """Nodes that failed a short while ago. Each failure doubles the time; only a conviction is for
    ever."""

    clock: Callable[[], float] = time.monotonic
    _nodes: dict[str, tuple[int, float]] = field(default_factory=dict)
    _convicted: set[str] = field(default_factory=set)

    def add(self, node: str) -> None:
        """A node has failed."""
        times, until = self._nodes.get(node, (0, 0.0))
        if until <= self.clock():
            times = max(0, times - 1)  # it has behaved meanwhile
        self._nodes[node] = times + 1, self.clock() + _avoid_seconds(times + 1)

    def convict(self, node: str) -> None:
        """A node was shown to lie: it isn't used again, even if there is no other."""
        self._convicted.add(node)

    def now(self) -> frozenset[str]:
        """The nodes to avoid now."""
        now = self.clock()
        failed = {node for node, (_, until) in self._nodes.items() if until > now}
        return frozenset(failed | self._convicted)

    def weight(self, node: str) -> float:
        """What a node counts for among others: 1, less the more often and later it failed, or 0.

        One that failed a moment ago is likely to be down still.
        """
        if node in self._convicted:
            return 0.0
        times, until = self._nodes.get(node, (0, 0.0))
        left = max(0.0, until - self.clock()) / _avoid_seconds(times) if times else 0.0
        return float(DOUBT ** (-min(times, 8) * left))


@dataclass(frozen=True, slots=True)
class Spares:
    """Finds stages for a session of ``rows`` rows in a model of so many layers.

    ``patience`` is the time in seconds that the session may be without any whole route. With
    ``any_class`` a stage of another numerics class may come where there is none of the same but
    such that failed lately, and if it did too, whichever failed less; the residual type stays the
    same in any case.
    """

    look: Look
    layers: int
    rows: int
    avoided: Avoided = field(default_factory=Avoided)
    view: View = field(default_factory=View)
    patience: float = PATIENCE
    any_class: bool = False
    like: Classes = ()
    """The classes that the first route has to have: an earlier session's."""

    def route(
        self, records: Sequence[NodeRecord], lost: frozenset[str] = frozenset()
    ) -> tuple[Stage, ...]:
        """The best route there is, of one class if that is possible. Raises ``NoRoute``.

        Nodes that failed lately are used only if there is no other route, and then as few of them
        as can be, those first that failed the least: they may have been restarted. Those that are
        ``lost`` to whoever asks come last.
        """
        avoid, view = self.avoided.now() | lost, self._doubting()
        looks = [(avoid, self.view), (lost, view)]
        looks += [(frozenset(), view)] if lost else []
        failure: NoRoute | None = None
        for without, seen in looks if self.like else ():
            try:
                return self._like(records, without, seen)
            except NoRoute as error:
                failure = error
        for without, seen in looks if self.any_class or not self.like else ():
            for one_class in (True, False):
                try:
                    return self._cover(records, (0, self.layers, ""), without, seen, one_class)
                except NoRoute as error:
                    failure = error
        assert failure is not None
        raise failure

    def _like(
        self, records: Sequence[NodeRecord], avoid: frozenset[str], view: View
    ) -> tuple[Stage, ...]:
        """A route of the classes of ``like``, whatever its windows."""
        found = list[Stage]()
        for part in self.like:
            used = frozenset(stage.node for stage in found) if view.once else frozenset[str]()
            found += self._cover(records, part, avoid | used, view)
        return tuple(found)

    def _cover(
        self,
        records: Sequence[NodeRecord],
        part: tuple[int, int, str],
        avoid: frozenset[str],
        view: View,
        one_class: bool = True,
    ) -> tuple[Stage, ...]:
        start, end, fingerprint = part
        return find_cover(
            records,
            start,
            end,
            rows=self.rows,
            avoid=avoid,
            fingerprint=fingerprint,
            one_class=one_class,
            view=view,
            whole=self.layers,
        )

    async def instead(
        self, route: Sequence[Stage], down: frozenset[Stage], again: bool, anybody: bool
    ) -> tuple[Stage, ...]:
        """``route`` with others in the place of the stages that are ``down``.

        Nodes that failed, these included, are used only if ``anybody`` will do and nobody else is
        there: they may have been restarted. The directory is asked first if ``again``, else only
        if the records at hand show nobody. Raises ``NoRoute``, or what looking for records raises.
        """
        # Who was to come in an attempt that somebody else cut short isn't there, but hasn't failed.
        lost = frozenset(stage.node for stage in down) & self.avoided.now()
        records = await self.look(again)
        try:
            return self._without(records, route, down, lost, anybody)
        except NoRoute:
            if not again:
                records = await self.look(True)
        try:
            return self._without(records, route, down, lost, anybody)
        except NoRoute:
            if not anybody:
                raise
        one_class = not self.any_class  # who was lost a moment ago comes last
        return self._new(records, route, down, frozenset(), self._doubting(), one_class)

    def _without(
        self,
        records: Sequence[NodeRecord],
        route: Sequence[Stage],
        down: frozenset[Stage],
        lost: frozenset[str],
        anybody: bool,
    ) -> tuple[Stage, ...]:
        """By others than the lost; by those that failed before only if ``anybody`` will do."""
        avoid = self.avoided.now() | lost
        try:
            return self._new(records, route, down, avoid, self.view)
        except NoRoute:
            if not anybody:
                raise
        if self.any_class:
            with suppress(NoRoute):
                return self._new(records, route, down, avoid, self.view, one_class=False)
        return self._new(records, route, down, lost, self._doubting(), not self.any_class)

    def _doubting(self) -> View:
        """A view in which nodes that failed lately are there, but cost more than any other."""
        own, avoided = self.view.weight, self.avoided
        return replace(
            self.view,
            weight=lambda node: avoided.weight(node) * (own(node) if own is not None else 1.0),
        )

    def _new(
        self,
        records: Sequence[NodeRecord],
        route: Sequence[Stage],
        down: frozenset[Stage],
        avoid: frozenset[str],
        view: View,
        one_class: bool = True,
    ) -> tuple[Stage, ...]:
        return new_route(records, route, down, self.layers, self.rows, avoid, view, one_class)


def new_route(
    records: Sequence[NodeRecord],
    route: Sequence[Stage],
    down: frozenset[Stage],
    layers: int,
    rows: int,
    avoid: frozenset[str],
    view: View | None = None,
    one_class: bool = True,
) -> tuple[Stage, ...]:
    """A route that keeps as much of the old one as it can; with ``one_class`` in the same class.

    First the gaps are filled and every other stage stays. Where that can't be, the cheapest whole
    route is taken, and stages of the old one that stand in it as they were stay. Raises ``NoRoute``
    with the windows that nobody serves.
    """
    residual, classes = route[0].residual, {stage.start: stage.fingerprint for stage in route}
    staying = [stage for stage in route if stage not in down]
    taken, once = frozenset(stage.node for stage in staying), view is None or view.once
    filled: list[Stage] = []
    try:
        for start, end in gaps(route, down):
            used = taken.union(stage.node for stage in filled) if once else frozenset[str]()
            filled += find_cover(
                records,
                start,
                end,
                rows=rows,
                avoid=avoid | used,
                residual=residual,
                fingerprint=classes[start] if one_class else "",
                one_class=one_class,
                view=view,
                whole=layers,
            )
        return tuple(sorted((*staying, *filled), key=lambda stage: stage.start))
    except NoRoute:
        # A stage that stays has its rows already, however few its node has left for others.
        roomy = [
            replace(r, free_rows=max(r.free_rows, rows)) if r.node in taken else r for r in records
        ]
        whole = find_cover(
            roomy,
            0,
            layers,
            rows=rows,
            avoid=avoid,
            residual=residual,
            fingerprint=route[0].fingerprint if one_class else "",
            one_class=one_class,
            view=view,
        )
    by_window = {(s.node, s.start, s.end): s for s in staying}
    return tuple(by_window.get((s.node, s.start, s.end), s) for s in whole)


def gaps(route: Sequence[Stage], down: frozenset[Stage]) -> list[tuple[int, int]]:
    """Windows without a stage, neighbouring ones joined."""
    found: list[tuple[int, int]] = []
    for stage in route:
        if stage not in down:
            continue
        if found and found[-1][1] == stage.start:
            found[-1] = found[-1][0], stage.end
        else:
            found.append((stage.start, stage.end))
    return found


def class_change(old: Sequence[Stage], new: Sequence[Stage]) -> list[str]:
    """The stages of a new route whose layers were in another numerics class before."""
    before = {layer: stage for stage in old for layer in range(stage.start, stage.end)}
    return [
        f"layers {stage.start} to {stage.end} from {before[stage.start].numerics} to "
        f"{stage.numerics}"
        for stage in new
        if any(before[n].fingerprint != stage.fingerprint for n in range(stage.start, stage.end))
    ]


def pause(attempt: int) -> float:
    """Seconds to wait before an attempt: none at first, then longer and longer, with jitter."""
    if attempt < 2:
        return 0.0
    return min(4.0, 0.1 * 2.0 ** (attempt - 2)) * random.uniform(0.5, 1.5)  # noqa: S311
