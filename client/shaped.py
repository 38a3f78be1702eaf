"""A pace that sends the best tree of its size for what siblings have turned out to be worth.

A draft's siblings are ranked by their chance. How often the b-th one is the token that is chosen
is counted; Sequoia's dynamic programme (``trees.best_shapes``) makes of that the best shape for
every size, and the size is the one that brings the most tokens a second at what a row was measured
to cost. A draft that takes time is asked for as many as should pay for that, too. For drafts that
say several tokens at a place; a chain is what comes of others.
"""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from statistics import median_low

from hearthring.client.cost import Ring, rows_worth
from hearthring.client.draft import Candidate
from hearthring.client.meter import Meter
from hearthring.client.pace import Explain, Place, Trip
from hearthring.client.trees import Shapes, best_shapes

ROWS, LEVELS = 15, 8
"""Most candidates of a step, and how deep they go."""
EXPECTED = (0.5, 0.15, 0.07, 0.03)
"""How often a sibling is taken, by rank, before any was; ranks beyond aren't sent."""
ROUNDS = 4.0
"""What that counts for, in places judged."""
CHEAP = 0.02
"""A share of a plain token's time: a draft that takes less than that is for nothing."""
STEP = 0.02
"""Shapes are made anew when a rank's share has moved by more."""


@dataclass(slots=True)
class Shaped:
    """A pace for one generation, of one step at a time. ``explain`` is told each size, in words."""

    explain: Explain | None = None
    meter: Meter = field(default_factory=Meter)
    _places: list[float] = field(default_factory=lambda: [ROUNDS for _ in EXPECTED])
    """Where there was a sibling of a rank."""
    _taken: list[float] = field(default_factory=lambda: [share * ROUNDS for share in EXPECTED])
    _known: tuple[float, ...] = ()
    _shapes: Shapes | None = None
    _out: int = 0
    _spent: float = 0.0
    _late: deque[float] = field(default_factory=lambda: deque[float](maxlen=5))
    """Seconds that a candidate took to be found."""

    @property
    def acceptance(self) -> tuple[float, ...]:
        """How often the sibling of each rank, if there was one, was the chosen token."""
        return tuple(
            taken / places for taken, places in zip(self._taken, self._places, strict=True)
        )

    def expect(self, ring: Ring) -> None:
        """Prices to begin with."""
        self.meter.expect(ring)

    def ask(self, place: Place) -> int:
        """What should pay, once it is known what a plain step takes: all that a step holds, if
        finding them takes no time; one, while nobody knows whether it does."""
        if place.flying or not (plain := self.meter.plain):
            return 0
        if not self._late:
            return min(1, place.room)
        each = median_low(self._late)
        if ROWS * each < CHEAP * plain:
            return min(ROWS, place.room)
        worth = rows_worth(self._gains(), lambda rows: self.meter.seconds(rows) + (rows - 1) * each)
        return min(max(1, worth), place.room)

    def keep(self, place: Place, candidates: Sequence[Candidate]) -> Collection[int]:
        """Those that fit the best shape."""
        shapes = self._best()
        worth = shapes.values[LEVELS]
        size = rows_worth(self._gains(), self.meter.seconds)
        kept = fitting(shapes.tree(size, LEVELS), candidates)
        if self.explain is not None:
            self.explain(
                f"a tree of {size}, {len(kept)} filled: {worth[size]:.2f} of them expected"
            )
        return kept

    def drafted(self, candidates: int, seconds: float) -> None:
        """It isn't the ring's time."""
        self._spent += seconds
        if candidates:
            self._late.append(seconds / candidates)

    def sent(self, steps: Sequence[int], flying: int) -> None:
        """A step of so many rows goes out."""
        self._out = steps[0] if len(steps) == 1 and not flying else 0

    def back(self, trip: Trip) -> None:
        """A step is back."""
        self.meter.trip(trip.result, trip.alone)

    def judged(self, taken: Sequence[bool]) -> None:
        """A token was chosen where siblings were, likeliest first: which of them it is."""
        for rank, hit in enumerate(taken[: len(self._taken)]):
            self._places[rank] += 1
            self._taken[rank] += hit

    def wrote(self, tokens: int, seconds: float) -> None:
        """So many tokens were chosen at once, so long after the ones before."""
        if self._out:
            self.meter.round(self._out, max(0.0, seconds - self._spent))
        self._spent = 0.0

    def _gains(self) -> list[float]:
        """What the best tree of each size has on the one that is smaller by one."""
        worth = self._best().values[LEVELS]
        return [float(worth[size] - worth[size - 1]) for size in range(1, ROWS + 1)]

    def _best(self) -> Shapes:
        now = self.acceptance
        moved = max((abs(a - b) for a, b in zip(now, self._known, strict=False)), default=1.0)
        if self._shapes is None or moved > STEP:
            self._known, self._shapes = now, best_shapes(now, ROWS, LEVELS)
        return self._shapes


def fitting(shape: Sequence[tuple[int, int]], candidates: Sequence[Candidate]) -> list[int]:
    """The candidates that have a place in a shape of ``(parent, rank)``, by index."""
    below: dict[int, list[int]] = {}
    for index, candidate in enumerate(candidates):
        below.setdefault(candidate.parent, []).append(index)
    for siblings in below.values():
        siblings.sort(key=lambda index: -candidates[index].chance)
    at: dict[int, int] = {-1: -1}
    for place, (parent, rank) in enumerate(shape):
        siblings = below.get(at[parent], []) if parent in at else []
        if rank < len(siblings):
            at[place] = siblings[rank]
    return sorted(index for place, index in at.items() if place >= 0)
