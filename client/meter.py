"""What trips through this ring take, fitted while they happen.

Pure: figures in, lines out. Seconds throughout.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

from hearthring.client.cost import Ring
from hearthring.client.flight import Result
from hearthring.shards.timings import Fit

FADE = 0.97
"""What a measurement counts after the next one: contexts grow, loads change."""
WILD = 2.5
"""A time so much above the line's is somebody else's pause, and counts as this much."""
SLOPE = 0.5
"""Before it is measured: what a row more takes of what a step of one row takes at its stages."""
CROWDED = 0.5
"""What a step takes from others that fly, as a share of its turn, before that shows: nothing where
every stage has processors of its own, all of it where they share them."""
LEAST = 0.1
"""The least that it is taken for."""
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
    steps wait for other sessions at the stages, as a share of their computing. What isn't measured
    yet is as expected, if anything was."""

    cycle: Line = field(default_factory=Line)
    turn: Line = field(default_factory=Line)
    hop: float = 0.0
    waiting: float = 0.0
    _expected: Ring | None = None
    _share: float = SLOPE
    _quiet: Line = field(default_factory=Line)
    """The slowest stage of a step while nothing else flew."""
    _among: bool = False
    _singles: deque[float] = field(default_factory=lambda: deque[float](maxlen=9))
    _hops: deque[float] = field(default_factory=lambda: deque[float](maxlen=9))

    def expect(self, ring: Ring) -> None:
        """What the ring should take, until it is measured."""
        self._expected = ring
        self.cycle.slope = ring.marginal(1)
        first = [stage.seconds(1) for stage in ring.stages]
        further = [stage.seconds(2) - one for stage, one in zip(ring.stages, first, strict=True)]
        self.turn.slope = self._quiet.slope = max(further)
        self._share = sum(further) / sum(first)

    @property
    def sure(self) -> bool:
        """Whether plain tokens were measured."""
        return len(self._singles) > 1

    @property
    def plain(self) -> float:
        """Seconds a token without guesses, the median of late; 0 as long as nobody knows."""
        if self.sure:
            return median(self._singles)
        if self._expected is None:
            return 0.0
        return self.cycle.fit().seconds(1) if self.cycle.known else self._expected.trip(1)

    def turning(self, rows: int) -> float:
        """Seconds of a step of so many rows at the slowest stage."""
        if self._expected is not None and not self.turn.known:
            return max(stage.seconds(rows) for stage in self._expected.stages)
        return self.turn.fit().seconds(rows)

    def round(self, rows: int, seconds: float) -> None:
        """From one choice to the next, a single step of so many rows under way."""
        self.cycle.add(rows, seconds)
        if rows == 1:
            self._singles.append(seconds)

    def seconds(self, rows: int) -> float:
        """What a single step of so many rows should take from one choice to the next."""
        return self.plain + (rows - 1) * self.cycle.fit().row

    @property
    def crowded(self) -> float:
        """What a step takes from others that fly, as a share of its turn, 0 to 1: as much as steps
        among others were slower than single ones."""
        if not self._among:
            return CROWDED
        if self._quiet.known:
            single = self._quiet.fit().seconds(2)
        elif self._expected is not None:
            single = max(stage.seconds(2) for stage in self._expected.stages)
        else:
            return CROWDED
        return min(1.0, max(LEAST, self.turn.fit().seconds(2) / max(single, 1e-9) - 1.0))

    def trip(
        self, result: Result, seconds: float, alone: bool, free: bool = True, single: bool = True
    ) -> None:
        """A step is back after so many seconds; ``alone``: none of the same session was out that
        counted; ``free``: none that had fallen, either; ``single``: none followed it."""
        times = result.times
        if not times or not result.rows:
            return
        computing = sum(hop.compute for hop in times)
        queueing = sum(hop.queue for hop in times)
        rows, most = len(result.rows), max(hop.compute for hop in times)
        if alone:
            self._hops.append((seconds - computing - queueing) / (len(times) + 1))
            self.hop = max(0.0, median(self._hops))
            if single and free:
                self._quiet.add(rows, most)
            if free:
                self.waiting += (queueing / max(computing, 1e-6) - self.waiting) / 8
            if rows == 1:
                self.cycle.slope = self._share * computing
                self.turn.slope = self._quiet.slope = self._share * most
        if not alone and not self._among:
            self._among, self.turn = True, Line(self.turn.slope)
        if not alone or not self._among:
            self.turn.add(rows, most)
