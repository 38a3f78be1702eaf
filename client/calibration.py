"""What a draft's own chances mean: how often its candidates were chosen, by what it had said.

Drafts are as sure of themselves as they like; the size of a tree is decided by what their
sureness was worth so far. Pure but for the counts kept in ``Calibration``.
"""

from collections.abc import Sequence
from math import exp

import numpy as np

from hearthring.client.philox import F64

EDGES = tuple(1 / (1 + exp(-step / 2)) for step in range(-9, 10))
"""Between the buckets of chances: even in their log odds, from 1.1 % to 98.9 %."""
PRIOR = 4.0
"""Candidates that a bucket seems to have seen, chosen as often as their draft expected."""
MEMORY = 400.0
"""Candidates after which older ones of the same bucket fade: drafts learn, and texts change."""


def isotonic(values: Sequence[float] | F64, weights: Sequence[float] | F64) -> F64:
    """The nondecreasing sequence closest to ``values`` in weighted least squares.

    Neighbours that fall are pooled until none does (Barlow et al., 1972). O(n); ``weights`` are
    above 0.
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        mean, mass, length = float(value), float(weight), 1
        while blocks and blocks[-1][0] >= mean:
            before, heavy, many = blocks.pop()
            mean = (before * heavy + mean * mass) / (heavy + mass)
            mass, length = heavy + mass, length + many
        blocks.append((mean, mass, length))
    return np.repeat([mean for mean, _, _ in blocks], [length for _, _, length in blocks])


class Calibration:
    """How often candidates of one draft were chosen, by the chance that the draft gave them.

    A candidate counts when its parent was chosen, else nobody knows. Before anything was seen,
    ``rate`` is the draft's own chance, or what ``expect`` made of it.
    """

    def __init__(self) -> None:
        buckets = len(EDGES) + 1
        self._stated, self._chosen, self._seen = (np.zeros(buckets) for _ in range(3))
        self._curve: tuple[F64, F64] | None = None
        self._shift, self._prior = 0.0, PRIOR

    def expect(self, shift: float, rounds: float) -> None:
        """Take the draft at its word but for ``shift`` in log odds, until experience outweighs it.

        Each bucket counts as if ``rounds`` candidates had shown it. What was seen is kept.
        """
        self._shift, self._prior, self._curve = shift, rounds, None

    def saw(self, chance: float, chosen: bool) -> None:
        """A candidate whose parent was chosen was chosen itself, or wasn't."""
        bucket = int(np.searchsorted(EDGES, chance))
        if self._seen[bucket] >= MEMORY:
            kept = 1 - 1 / MEMORY
            for counts in (self._stated, self._chosen, self._seen):
                counts[bucket] *= kept
        self._stated[bucket] += min(max(chance, 0.0), 1.0)
        self._chosen[bucket] += chosen
        self._seen[bucket] += 1
        self._curve = None

    def rate(self, chance: float) -> float:
        """The chance that such a candidate is chosen: nondecreasing in ``chance``, 0 to 1."""
        if self._curve is None:
            ends = np.array([0.0, *EDGES, 1.0])
            centres = (ends[1:] + ends[:-1]) / 2
            weights = self._seen + self._prior
            stated = (self._stated + self._prior * centres) / weights
            expected = 1 / (1 + (1 - centres) / centres * exp(-self._shift))
            chosen = isotonic((self._chosen + self._prior * expected) / weights, weights)
            self._curve = np.array([0.0, *stated, 1.0]), np.array([0.0, *chosen, chosen[-1]])
        return float(np.interp(chance, *self._curve))
