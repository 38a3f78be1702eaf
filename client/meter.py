"""What trips through this ring take, fitted while they happen.

Pure: figures in, lines out. Seconds throughout.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

from hearthring.client.flight import Result
from hearthring.shards.timings import Fit

FADE = 0.97
"""What a measurement counts after the next one: contexts grow, loads change."""
WILD = 2.5
"""A time so much above the line's is somebody else's pause, and counts as this much."""
SLOPE = 0.5
"""Before it is measured: what a row more takes of what a step of one row takes at its stages."""
APART, PRIOR = 4.0, 1.0
"""So many rows away, the guessed slope counts as so many measurements."""


@dataclass(slots=True)
class Line:
    """A line through times of steps by their rows: least squares with fading weights.

    ``slope`` is the seconds per row that are assumed until there is better.
    """

    slope: float = 0.0
    _n: float = 0.0
    _m: float = 0.0
    _mm: float = 0.0
    _t: float = 0.0
    _mt: float = 0.0

    @property
    def known(self) -> bool:
        """Whether anything was measured."""
        return self._n > 0

    def add(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        if self.known:
            seconds = min(seconds, WILD * max(self.fit().seconds(rows), 1e-6))
        for name in ("_n", "_m", "_mm", "_t", "_mt"):
            setattr(self, name, getattr(self, name) * FADE)
        self._n += 1
        self._m += rows
        self._mm += rows * rows
        self._t += seconds
        self._mt += rows * seconds

    def fit(self) -> Fit:
        """The line: never falling, never below zero at one row. Zero when nothing is known."""
        if not self.known:
            return Fit(0.0, self.slope)
        mean, seconds = self._m / self._n, self._t / self._n
        # As if the guessed slope had been seen between two places APART.
        spread = self._mm - self._m * mean + PRIOR * APART * APART
        along = self._mt - self._m * seconds + PRIOR * APART * APART * self.slope
        row = max(0.0, along / spread)
        step = seconds - row * mean
        return Fit(max(step, -row), row)


@dataclass(slots=True)
class Meter:
    """``cycle``: from one choice of tokens to the next, when a single step made the trip.
    ``turn``: the slowest stage of a step, among others if there were such. ``waiting``: how long
    steps wait for other sessions at the stages, as a share of their computing."""

    cycle: Line = field(default_factory=Line)
    turn: Line = field(default_factory=Line)
    hop: float = 0.0
    waiting: float = 0.0
    _among: bool = False
    _singles: deque[float] = field(default_factory=lambda: deque[float](maxlen=9))
    _hops: deque[float] = field(default_factory=lambda: deque[float](maxlen=9))

    @property
    def plain(self) -> float:
        """Seconds a token without guesses, the median of late; 0 before two were measured."""
        return median(self._singles) if len(self._singles) > 1 else 0.0

    def round(self, rows: int, seconds: float) -> None:
        """From one choice to the next, a single step of so many rows under way."""
        self.cycle.add(rows, seconds)
        if rows == 1:
            self._singles.append(seconds)

    def seconds(self, rows: int) -> float:
        """What a single step of so many rows should take from one choice to the next."""
        return self.plain + (rows - 1) * self.cycle.fit().row

    def trip(self, result: Result, seconds: float, alone: bool) -> None:
        """A step is back after so many seconds; ``alone``: none of the same session was out."""
        times = result.times
        if not times or not result.rows:
            return
        computing = sum(hop.compute for hop in times)
        queueing = sum(hop.queue for hop in times)
        rows, most = len(result.rows), max(hop.compute for hop in times)
        if alone:
            self._hops.append((seconds - computing - queueing) / (len(times) + 1))
            self.hop = max(0.0, median(self._hops))
            self.waiting += (queueing / max(computing, 1e-6) - self.waiting) / 8
            if rows == 1:
                self.cycle.slope = SLOPE * computing
                self.turn.slope = SLOPE * most
        if not alone and not self._among:
            self._among, self.turn = True, Line(self.turn.slope)
        if not alone or not self._among:
            self.turn.add(rows, most)
