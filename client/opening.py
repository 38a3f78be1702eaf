"""Opening a session through whatever route there is, until one opens or patience is at its end.

A record outlives its node by some seconds, an answer of the directory may be a second old, and a
node may die between the look and the call. So a route that doesn't open says little: who didn't
answer is avoided, the directory is asked again, and the next best route is tried. Only time ends
this, never a count: a swarm whose nodes are restarting is whole again after some seconds.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from hearthring.client.replacement import Spares, pause
from hearthring.client.ring import RingSession
from hearthring.client.route import Stage, missing_windows
from hearthring.protocol.errors import DeadlineExceeded, HearthringError, NoRoute, StageFailed
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.records import NodeRecord
from hearthring.shards.manifest import Progress, quiet

OPENING = 3.0
"""Seconds that the first route has to open; later ones have longer, up to ``LIMITS.connect`` twice:
the machine may be busy rather than the nodes gone."""
LOOK_AGAIN = 1.2
"""Seconds between looks into a directory that shows no route: an answer may be a second old."""

Make = Callable[[tuple[Stage, ...], list[NodeRecord]], Awaitable[RingSession]]


@dataclass(slots=True)
class Opening:
    """One session to be opened. ``look`` fetches the records, ``make`` a session that isn't
    open out of a route and the records it was chosen from.

    ``progress`` hears what is waited for once the first look shows no route.
    """

    look: Callable[[], Awaitable[list[NodeRecord]]]
    make: Make
    spares: Spares
    extra: int = 0
    """Of ``spares.rows``, those to do without if nobody has room for them."""
    progress: Progress = quiet
    clock: Callable[[], float] = time.monotonic
    _failed: dict[str, str] = field(default_factory=dict)
    """Why nodes were of no use, by node; the last reason of each."""
    _lost: set[str] = field(default_factory=set)
    """Those of them that were at fault: however often others failed before, these come last."""

    async def open(self) -> RingSession:
        """The open session.

        Raises ``NoRoute`` that lists the layers nobody could run for ``Spares.patience`` seconds,
        and what ``look`` raises. Nothing stays open then, nor after a cancellation.
        """
        begun, tries = self.clock(), 0
        while True:
            error: HearthringError
            records = await self.look()
            try:
                route = self.spares.route(records, frozenset(self._lost))
            except NoRoute as no_route:
                if self.extra:
                    rows = self.spares.rows - self.extra
                    self.spares, self.extra = replace(self.spares, rows=rows), 0
                    continue
                error, wait = no_route, LOOK_AGAIN
            else:
                ring = await self.make(route, records)
                try:
                    await ring.open(self.spares.rows, _seconds(tries))
                    return ring
                except (StageFailed, DeadlineExceeded) as failure:
                    error, wait = failure, pause(tries)
                    self._note(ring, failure)
            tries += 1
            waited = self.clock() - begun
            left = self.spares.patience - waited
            if left <= 0:
                raise given_up(
                    error, self._failed, records, self.spares.layers, self.spares.patience
                ) from error
            if isinstance(error, NoRoute):
                self.progress(error.message, int(waited), int(self.spares.patience))
            await asyncio.sleep(min(wait, left))

    def _note(self, ring: RingSession, failure: HearthringError) -> None:
        """Avoid who failed; who can't reach one neighbour after the other is at fault itself."""
        for node in ring.places.blamed:
            self.spares.avoided.add(node)
            self._lost.add(node)
            self._failed[node] = failure.message
        for node in ring.places.accusing:
            if node in self._failed:
                self.spares.avoided.add(node)
                self._lost.add(node)
            self._failed.setdefault(node, failure.message)


def _seconds(tries: int) -> float:
    return min(OPENING * 1.5**tries, 2 * LIMITS.connect)


def given_up(
    error: HearthringError,
    failed: dict[str, str],
    records: Sequence[NodeRecord],
    layers: int,
    seconds: float,
) -> NoRoute:
    """What is missing after all: windows that nobody serves, or only nodes that failed."""
    if isinstance(error, NoRoute) and (error.missing or not failed):
        return error
    missing = missing_windows([r for r in records if r.node not in failed], layers)
    spans = ", ".join(f"[{first}, {last})" for first, last in missing)
    who = "; ".join(dict.fromkeys(failed.values())) or error.message
    what = f"nobody who answers serves layers {spans} of {layers}" if spans else "no route opens"
    return NoRoute(
        f"{what}, for {seconds:g} s: {who}",
        field="route",
        mend="start a node with --layers START:END",
        missing=tuple(missing),
    )
