"""What an engine's steps cost, by row kind and number of rows: for routes, planner and drafter."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np

from hearthring.protocol.errors import Malformed
from hearthring.protocol.messages import StepTime
from hearthring.shards.engine import Kind

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Rows in a step that are timed."""
POINTS = 16
"""Entries of a curve that are accepted from others."""

Curve = tuple[tuple[int, float], ...]
"""``(rows, seconds)``, rows ascending."""


@dataclass(frozen=True, slots=True)
class Fit:
    """``t(m) = step + m * row`` seconds."""

    step: float
    row: float

    def seconds(self, rows: int) -> float:
        """Time of a step of so many rows."""
        return self.step + rows * self.row


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of a step through a whole window, near position 0, queue and network not included.

    A curve has the ``BATCHES`` that could be timed in reasonable time, at least the first two.
    """

    prompt: Curve
    generated: Curve

    def scaled(self, share: float) -> "Timings":
        """Of so many times as many layers."""
        prompt, generated = (
            tuple((rows, seconds * share) for rows, seconds in curve)
            for curve in (self.prompt, self.generated)
        )
        return Timings(prompt, generated)

    def curve(self, kind: Kind) -> Curve:
        """The measured points of a kind."""
        return self.prompt if kind is Kind.PROMPT else self.generated

    def seconds(self, kind: Kind, rows: int) -> float:
        """Time of a step of ``rows`` rows: straight lines between the points and beyond them."""
        lines = list(pairwise(self.curve(kind)))
        low, high = next((line for line in lines if rows <= line[1][0]), lines[-1])
        slope = (high[1] - low[1]) / (high[0] - low[0])
        return max(0.0, low[1] + (rows - low[0]) * slope)

    def points(self) -> tuple[StepTime, ...]:
        """As a node's status has it."""
        return tuple(StepTime(kind, *point) for kind in Kind for point in self.curve(kind))

    @staticmethod
    def of_points(points: Sequence[StepTime]) -> "Timings":
        """Out of a node's status. Raises ``Malformed``."""
        prompt, generated = (
            curve_of((point.rows, point.seconds) for point in points if point.kind == kind)
            for kind in (Kind.PROMPT, Kind.GENERATED)
        )
        return Timings(prompt, generated)

    def fit(self, kind: Kind, most: int = BATCHES[-1]) -> Fit:
        """The line with the least relative errors through the points of up to ``most`` rows."""
        return fit_line(tuple(point for point in self.curve(kind) if point[0] <= most))


def fit_line(curve: Curve) -> Fit:
    """The line that minimises the sum of squared *relative* errors; neither part is negative.

    Relative, since one row matters as much as 512, whose error in seconds is larger.
    """
    rows, seconds = np.array(curve, np.float64).T
    ones = np.ones_like(rows)
    weighted = np.stack((ones, rows), 1) / seconds[:, None]
    (step, row), *_ = np.linalg.lstsq(weighted, ones, rcond=None)
    if step < 0:
        shares = rows / seconds
        step, row = 0.0, shares.sum() / (shares @ shares)
    elif row < 0:
        shares = 1 / seconds
        step, row = shares.sum() / (shares @ shares), 0.0
    return Fit(float(step), max(float(row), 1e-9))


def curve_of(points: Any) -> Curve:
    """A curve out of pairs that came from a file or a peer. Raises ``Malformed``."""
    try:
        curve = tuple((int(rows), float(seconds)) for rows, seconds in points)
    except (TypeError, ValueError):
        raise Malformed("not pairs of rows and seconds", field="timings") from None
    if not 2 <= len(curve) <= POINTS:
        raise Malformed(f"{len(curve)} points", field="timings")
    if not all(1 <= rows <= 1 << 20 and t > 0 and isfinite(t) for rows, t in curve):
        raise Malformed("not a time", field="timings")
    if any(low[0] >= high[0] for low, high in pairwise(curve)):
        raise Malformed("rows don't ascend", field="timings")
    return curve
