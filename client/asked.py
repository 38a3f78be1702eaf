"""A draft that takes time to say something: where it is worth asking, and for how much.

Pure but for what it has seen. Seconds throughout.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median_low

from hearthring.client.cost import rows_worth
from hearthring.client.draft import Candidate
from hearthring.client.trees import path_chances
from hearthring.shards.timings import Fit

HITS, TRIES = 2.0, 4.0
"""Candidates that a draft seems to have tried before it has said anything, and those of them that
were right."""
FADE = 0.98
"""What a trial counts after the next choice of tokens: who was wrong is tried again some day."""
GAIN = 1.05
"""What asking must promise: figures are rough."""


@dataclass(slots=True)
class Asked:
    """One slow draft, in one text."""

    _hits: float = 0.0
    _tries: float = 0.0
    _late: deque[float] = field(default_factory=lambda: deque[float](maxlen=5))
    """Seconds a candidate, by proposal."""

    @property
    def acceptance(self) -> float:
        """How likely its candidates are, given the ones before."""
        return min(0.98, (HITS + self._hits) / (TRIES + self._tries))

    def took(self, candidates: int, seconds: float) -> None:
        """It has found so many."""
        if candidates:
            self._late.append(seconds / candidates)

    def judged(self, hits: int, missed: bool) -> None:
        """So many of its candidates in a row were chosen, and whether the next one wasn't."""
        self._hits += hits
        self._tries += hits + missed

    def fade(self) -> None:
        """Tokens were chosen."""
        self._hits *= FADE
        self._tries *= FADE

    def score(self, tokens: int) -> float:
        """The share of so many next tokens that it should get right, 0 to 1."""
        return sum(self.acceptance**depth for depth in range(1, tokens + 1)) / max(tokens, 1)

    def worth(
        self, trip: Fit | None, instead: Sequence[Candidate], most: int, waiting: bool
    ) -> int:
        """How many candidates to ask it for, at most ``most``; 0 if none should pay.

        ``trip`` is what a step takes by its rows, ``instead`` what others propose for nothing.
        ``waiting``: the ring has nothing else to do meanwhile. If it has, candidates that take half
        a trip cost nothing, and no others are asked for. One, while nobody knows what it takes;
        none, while nobody knows what trips do.
        """
        if trip is None:
            return 0
        each, asked = 0.0, min(1, most)
        if self._late:
            each, asked = median_low(self._late), most
        if not waiting:
            asked = min(asked, int(trip.seconds(1) / 2 / max(each, 1e-9)))
            each = 0.0
        own = [self.acceptance**depth for depth in range(1, asked + 1)]
        count = rows_worth(own, lambda rows: trip.seconds(rows) + (rows - 1) * each)
        rate = (1 + sum(own[:count])) / (trip.seconds(1 + count) + count * each)
        others = sorted(path_chances(instead), reverse=True)[:most]
        free = rows_worth(others, trip.seconds)
        return count if rate > GAIN * (1 + sum(others[:free])) / trip.seconds(1 + free) else 0
