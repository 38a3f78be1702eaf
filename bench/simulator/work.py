"""What processors do in a ring beside its engines: messages, hashes, signatures."""

from dataclasses import dataclass
from typing import Protocol


class Seconds(Protocol):
    """What something takes for a step of so many rows: a ``Fit``, or ``Points``."""

    def seconds(self, rows: int) -> float:
        """Of processor time."""


@dataclass(frozen=True, slots=True)
class Points:
    """Straight lines between what was measured, ``(rows, seconds)`` ascending, and beyond."""

    points: tuple[tuple[int, float], ...]

    def seconds(self, rows: int) -> float:
        """At so many rows, never below zero."""
        points = self.points
        if len(points) == 1:
            return points[0][1]
        last = len(points) - 1
        place = next((i for i, (at, _) in enumerate(points) if rows <= at), last)
        (low, before), (high, after) = points[max(0, place - 1)], points[max(1, place)]
        return max(0.0, before + (rows - low) * (after - before) / (high - low))


@dataclass(frozen=True, slots=True)
class Nothing:
    """No time at all."""

    def seconds(self, rows: int) -> float:
        """None."""
        return 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """Processor seconds by rows that live.

    ``stage`` is a stage's for each step, its engine's thread not included, ``client`` the client's
    for sending a step and taking it back, its embedding, head and choices not included, ``wire``
    what carries a message between two of them, if that runs on the same processors. A step waits
    for ``path`` of each, and the rest is done beside it. ``empty``: the engine's thread with a step
    whose rows are all cancelled. ``note``: somebody with one note of cancellation.
    """

    stage: Seconds = Nothing()
    client: Seconds = Nothing()
    wire: Seconds = Nothing()
    path: float = 1.0
    empty: float = 0.0
    note: float = 0.0


NOTHING = Work()
