"""Chance for rules that accept or refuse drafts: two questions, and who answers them.

Rules ask a ``Chance``, so that a test can answer every way a rule may go and add up exact
probabilities, while a session draws from the seed.
"""

from typing import Protocol

import numpy as np

from hearthring.client.philox import F64, block

DRAFTING, JUDGING = 1, 2
"""What a draw is for. Gumbel noise, which the sampler draws, has 0."""


class Chance(Protocol):
    """Answers by chance, each independent of the ones before."""

    def happens(self, probability: float) -> bool:
        """True with ``probability``."""

    def pick(self, weights: F64) -> int:
        """An index of ``weights``, none of them negative, in proportion to them."""


class Drawn:
    """Chance that depends on a seed, a position in the text and a purpose, and on nothing else.

    The n-th draw is Philox4x32-10 of key = (low, high word of ``seed``) and counter =
    (``position``, n, ``purpose``, 0): 53 bits, the upper 27 of the first word before the upper 26
    of the second. So a step that is sent again judges as before, and an auditor draws the same.
    """

    def __init__(self, seed: int, position: int, purpose: int) -> None:
        self._seed, self._position, self._purpose = seed, position, purpose
        self._drawn = 0

    def happens(self, probability: float) -> bool:
        return self._uniform() < probability

    def pick(self, weights: F64) -> int:
        heap = np.cumsum(weights)
        place = int(np.searchsorted(heap, self._uniform() * heap[-1], side="right"))
        # Rounding may carry the product up to the sum: the last one with a weight then.
        return min(place, int(np.searchsorted(heap, heap[-1], side="left")))

    def _uniform(self) -> float:
        high, low, *_ = block(self._seed, (self._position, self._drawn, self._purpose, 0))
        self._drawn += 1
        return ((high >> 5 << 26) + (low >> 6)) / 2.0**53
