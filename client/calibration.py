"""What a draft's own chances mean: how often its candidates were chosen, by what it had said.

Drafts are as sure of themselves as they like; the size of a tree is decided by what their
sureness was worth so far. Pure but for the counts kept in ``Calibration``.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import exp

import numpy as np

from hearthring.client.draft import Candidate
from hearthring.client.philox import F64

EDGES = tuple(1 / (1 + exp(-step / 2)) for step in range(-9, 10))
"""Between the buckets of chances: even in their log odds, from 1.1 % to 98.9 %."""
PRIOR = 4.0
"""Candidates that a bucket seems to have seen, chosen as often as their draft expected."""
LEANING = 4.0
"""Variance, in log odds, of how much surer a draft may be than it says, as long as nothing else is
expected of it."""
MOST = 3.0
"""Log odds that guesses before a candidate add to it at most."""
_STEPS = 6
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
        self._information = 0.0

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
            expected = 1 / (1 + (1 - centres) / centres * exp(-self._leaning()))
            chosen = isotonic((self._chosen + self._prior * expected) / weights, weights)
            self._curve = np.array([0.0, *stated, 1.0]), np.array([0.0, *chosen, chosen[-1]])
        return float(np.interp(chance, *self._curve))

    def ahead(self, candidates: Sequence[Candidate], path: Sequence[float] = ()) -> list[Candidate]:
        """Candidates with the chances that they are chosen if all before them are.

        ``path`` are the chances of guesses that lie before them. A guess that comes true tells of
        those behind it: the less is known of a text, the surer they are then.
        """
        self.rate(0.5)  # what is known is up to date
        begin = 0.0, self._information + self._prior / PRIOR / LEANING
        for chance in path:
            begin = _surer(*begin, chance)
        known, rated = list[tuple[float, float]](), list[Candidate]()
        for candidate in candidates:
            more, information = known[candidate.parent] if candidate.parent >= 0 else begin
            chance = min(max(self.rate(candidate.chance), 1e-6), 1 - 1e-6)
            chance = 1 / (1 + (1 - chance) / chance * exp(-more))
            known.append(_surer(more, information, chance))
            rated.append(replace(candidate, chance=chance))
        return rated

    def _leaning(self) -> float:
        """By how much, in log odds, all candidates do better than stated: the most probable.

        What one bucket shows tells something of the others, too: a text that can be guessed.
        """
        seen = self._seen > 0
        self._information = 0.0
        if not seen.any():
            return self._shift
        many, chosen = self._seen[seen], self._chosen[seen]
        stated = np.clip(self._stated[seen] / many, 0.01, 0.99)
        odds, at = np.log(stated / (1 - stated)), self._shift
        pull = self._prior / PRIOR / LEANING
        for _ in range(_STEPS):
            chance = 1 / (1 + np.exp(-np.clip(odds + at, -30, 30)))
            slope = float((chosen - many * chance).sum()) - pull * (at - self._shift)
            move = slope / (float((many * chance * (1 - chance)).sum()) + pull)
            at += min(2.0, max(-2.0, move))
            self._information = float((many * chance * (1 - chance)).sum())
        return at


def _surer(more: float, information: float, chance: float) -> tuple[float, float]:
    """Log odds to add, and what is known of them, once a guess of such a chance has come true."""
    information += chance * (1 - chance)
    return min(MOST, more + (1 - chance) / information), information
