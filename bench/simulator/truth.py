"""Which guesses are right: drawn per position of a text, the same for whoever asks."""

import itertools
import random
from collections.abc import Sequence


class Truth:
    """The draft's b-th candidate at a position is the right one with chance ``acceptance[b]``.

    Ranks count from 0; −1 says that none is right. Two clients with one seed write one text,
    however they go about it. ``luck`` says of the first positions whether the first candidate is
    right there, as it was in a run that is foretold.
    """

    def __init__(self, acceptance: Sequence[float], seed: int, luck: Sequence[bool] = ()) -> None:
        self.acceptance = tuple(acceptance)
        self._heap = tuple(itertools.accumulate(self.acceptance))
        self._draw = random.Random(seed)
        self._ranks = [0 if lucky else -1 for lucky in luck]

    def rank(self, position: int) -> int:
        """Which candidate is right at a position, from 0."""
        while len(self._ranks) <= position:
            chance = self._draw.random()
            right = (place for place, bound in enumerate(self._heap) if chance < bound)
            self._ranks.append(next(right, -1))
        return self._ranks[position]
