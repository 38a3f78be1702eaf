"""One machine's link as arithmetic: when a frame that is sent now arrives, if it does.

Pure but for the random numbers it is given: the switch moves the frames.
"""

import random
from dataclasses import dataclass, field

QUEUE = 256 * 1024
"""Bytes that wait in front of a full link before frames are dropped, as in a home router."""


@dataclass(eq=False, slots=True)
class Link:
    """Rates in bytes a second, times in seconds. Changing an attribute takes effect at once."""

    name: str
    up: float = 0.0
    down: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    deaf_to: set[str] = field(default_factory=set)
    """Machines whose frames don't arrive here."""
    dropped: int = 0
    _up_free: float = 0.0
    _down_free: float = 0.0
    _last: float = 0.0

    def send(self, size: int, now: float, draw: random.Random) -> float | None:
        """When a frame has left here, or ``None`` when it is lost or its queue is full."""
        if self.up:
            if (self._up_free - now) * self.up > QUEUE:
                return self._drop()
            self._up_free = now = max(self._up_free, now) + size / self.up
        return self._drop() if self.loss and draw.random() < self.loss else now

    def arrival(self, size: int, left: float, sender: "Link", draw: random.Random) -> float | None:
        """When a frame that left its sender then gets here. Frames never overtake each other."""
        if sender.name in self.deaf_to or (self.loss and draw.random() < self.loss):
            return self._drop()
        at = left + sender.delay + self.delay
        if spread := sender.jitter + self.jitter:
            at += draw.uniform(0, spread)
        if self.down:
            if (self._down_free - at) * self.down > QUEUE:
                return self._drop()
            self._down_free = at = max(self._down_free, at) + size / self.down
        self._last = at = max(at, self._last)
        return at

    def _drop(self) -> None:
        self.dropped += 1
