"""What trips through this ring take, fitted while they happen.

Pure: figures in, lines out. Seconds throughout.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median, median_low

from hearthring.client.chunks import STEP_SECONDS
from hearthring.client.cost import Ring
from hearthring.client.flight import Result
from hearthring.shards.timings import Fit

FADE = 0.97
"""What a measurement counts after the next one: contexts grow, loads change."""
WILD = 2.5
"""A time so much above the line's is somebody else's pause, and counts as this much."""
SLOPE = 0.5
"""Before it is measured: what a row more takes of what a step of one row takes at its stages."""
CROWDED, LEAST = 0.5, 0.1
"""What a step takes from the one that it follows, as a share of its turn, before that shows, and at
least: nothing where every stage has processors of its own, all of it where they share them."""
SHORTEST = 1e-4
"""The least seconds between two steps: results that waited for the client are back at once."""
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
    ``turn``: how long after the one before it a step is back that left right behind it.
    ``waiting``: how long steps wait for other sessions at the stages, as a share of their
    computing. What isn't measured yet is as expected, if anything was."""

    cycle: Line = field(default_factory=Line)
    turn: Line = field(default_factory=Line)
    waiting: float = 0.0
    _expected: Ring | None = None
    _share: float = SLOPE
    _singles: deque[float] = field(default_factory=lambda: deque[float](maxlen=9))
    _slowest: Line = field(default_factory=Line)
    """The slowest stage of steps that went alone."""
    _crowds: deque[float] = field(default_factory=lambda: deque[float](maxlen=5))

    def expect(self, ring: Ring) -> None:
        """What the ring should take, until it is measured."""
        self._expected = ring
        self.cycle.slope = ring.marginal(1)
        self.cycle.add(1, ring.trip(1))
        self._singles.append(ring.trip(1))
        first = [stage.seconds(1) for stage in ring.stages]
        further = [stage.seconds(2) - one for stage, one in zip(ring.stages, first, strict=True)]
        self.turn.slope = self._slowest.slope = max(further)
        self._share = sum(further) / sum(first)

    @property
    def sure(self) -> bool:
        """Whether plain tokens were measured."""
        return len(self._singles) > 1

    @property
    def plain(self) -> float:
        """Seconds a token without guesses, the median of late; 0 as long as nobody knows.

        What is expected counts as one of them: the first ones take longer.
        """
        return median_low(self._singles) if self.sure or self._expected else 0.0

    @property
    def crowded(self) -> float:
        """What a step takes from the one that it follows, as a share of its turn, 0 to 1."""
        return median(self._crowds) if self._crowds else CROWDED

    @property
    def most_crowded(self) -> float:
        """The most that has to be reckoned with."""
        return median(self._crowds) if self._crowds else 1.0

    def seconds(self, rows: int) -> float:
        """What a single step of so many rows should take from one choice to the next."""
        return self.plain + (rows - 1) * self.cycle.fit().row

    def turning(self, rows: int) -> float:
        """How long after the one before it a step of so many rows should be back."""
        if self.turn.known:
            return max(SHORTEST, self.turn.fit().seconds(rows))
        if self._slowest.known or self._expected is None:
            return STEP_SECONDS + self._slowest.fit().seconds(rows)
        return STEP_SECONDS + max(stage.seconds(rows) for stage in self._expected.stages)

    def round(self, rows: int, seconds: float) -> None:
        """From one choice to the next, a single step of so many rows under way."""
        self.cycle.add(rows, seconds)
        if rows == 1:
            self._singles.append(seconds)

    def followed(self, rows: int, behind: Sequence[int], seconds: float) -> None:
        """From one choice to the next, a step of so many rows that others went right behind."""
        turn = self.turning(max(behind))
        beside = turn * min(len(behind), max(1.0, self.seconds(rows) / turn))
        share = (seconds - self.seconds(rows)) / beside
        self._crowds.append(min(1.0, max(LEAST, share)))

    def apart(self, rows: int, seconds: float) -> None:
        """A step of so many rows that went right behind another was back so long after it."""
        self.turn.add(rows, seconds)

    def trip(self, result: Result, alone: bool, free: bool = True, single: bool = True) -> None:
        """A step is back; ``alone``: none of the same session was out that counted; ``free``: none
        that had fallen, either; ``single``: none followed it."""
        times = result.times
        if not (alone and times and result.rows):
            return
        rows, most = len(result.rows), max(hop.compute for hop in times)
        computing = sum(hop.compute for hop in times)
        queueing = sum(hop.queue for hop in times)
        if free:
            self.waiting += (queueing / max(computing, 1e-6) - self.waiting) / 8
        if free and single:
            self._slowest.add(rows, most)
        if rows == 1 and single:
            self.cycle.slope = self._share * computing
            self.turn.slope = self._slowest.slope = self._share * most
            if self._expected is not None:  # what a single row takes isn't all its own
                self.cycle.slope = (self.cycle.slope + self._expected.marginal(1)) / 2
