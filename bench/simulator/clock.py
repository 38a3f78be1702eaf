"""Simulated time: what is to happen, in order."""

import heapq
from collections.abc import Callable


class Clock:
    """Calls what was asked for at its time; what was asked for first goes first at equal times."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._asked = 0

    def at(self, time: float, event: Callable[[], None]) -> None:
        """Call ``event`` at ``time``, not before now."""
        self._asked += 1
        heapq.heappush(self._events, (max(time, self.now), self._asked, event))

    def run(self, until: Callable[[], bool]) -> None:
        """Until ``until`` is true. Nothing left to happen before that is a deadlock: an error."""
        while not until():
            self.now, _, event = heapq.heappop(self._events)
            event()
