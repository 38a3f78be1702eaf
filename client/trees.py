"""Which tree of candidates to send: as many accepted tokens as rows can bring.

Pure. Two ways, for two kinds of knowledge:

- ``best_shapes`` knows how often the b-th child of an accepted token is accepted, measured over
  many, and finds the best shape for each size beforehand (Chen et al., "Sequoia", NeurIPS 2024,
  section 3.1).
- ``grow`` and ``grow_drawn`` know what the draft expects of each candidate at hand, and take the
  likeliest next (Xiong et al., "DySpec", 2024, algorithm 1). What they take earlier is worth more,
  so the beginning of their result is the best tree of its size.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hearthring.client.draft import Candidate
from hearthring.client.philox import F64, I64

ROWS, DEPTH = 64, 16
"""Trees are at most so large and deep."""


@dataclass(frozen=True, slots=True)
class Shapes:
    """The best trees of up to ``rows`` candidates and ``depth`` levels.

    ``values[l, m]`` is how many of m candidates are accepted, in the mean, by the best tree of at
    most l levels.
    """

    values: F64
    _width: I64
    """Children of the root: ``[levels, candidates]``."""
    _share: I64
    """Candidates at and below the b-th of them: ``[levels, b, candidates]``."""

    def tree(self, rows: int, depth: int) -> tuple[tuple[int, int], ...]:
        """``(parent, rank)`` of every candidate, parents first, -1 for the root, ranks from 0."""
        made: list[tuple[int, int]] = []
        self._build(made, -1, rows, depth)
        return tuple(made)

    def _build(self, made: list[tuple[int, int]], parent: int, rows: int, depth: int) -> None:
        shares, left = [], rows
        for rank in range(int(self._width[depth, rows]), 0, -1):
            shares.append(int(self._share[depth, rank, left]))
            left -= shares[-1]
        assert left == 0
        for rank, share in enumerate(reversed(shares)):
            made.append((parent, rank))
            self._build(made, len(made) - 1, share - 1, depth - 1)


def best_shapes(acceptance: Sequence[float], rows: int = ROWS, depth: int = DEPTH) -> Shapes:
    """Every best tree, by a dynamic programme, in O(depth · width · rows²).

    ``acceptance[b]`` is the chance that the b-th child of an accepted token is the accepted one,
    the same at every place. Children of a place are ranks 0, 1, … without a gap. With W[l, m] the
    value of m candidates in l levels, G_b[m] that of exactly b children:
    G_b[m] = max over y of G_(b−1)[m − y] + acceptance[b] · (1 + W[l − 1, y − 1]), W = max G_b.
    """
    wide, none = len(acceptance), -1e300  # for sizes that no tree has: no sum of them overflows
    values = np.full((depth + 1, rows + 1), none)
    values[:, 0] = 0.0
    width = np.zeros((depth + 1, rows + 1), np.int64)
    share = np.zeros((depth + 1, wide + 1, rows + 1), np.int64)
    for level in range(1, depth + 1):
        subtree = 1.0 + values[level - 1, :-1]  # of 1, 2, ... candidates, its top one included
        known = np.full(rows + 1, none)
        known[0] = 0.0
        for rank in range(1, wide + 1):
            grown = np.full(rows + 1, none)
            worth = np.where(subtree < 0, none, acceptance[rank - 1] * subtree)
            for m in range(1, rows + 1):
                choices = known[m - 1 :: -1] + worth[:m]
                best = int(choices.argmax())
                grown[m], share[level, rank, m] = choices[best], best + 1
            better = grown > values[level]
            values[level][better], width[level][better] = grown[better], rank
            known = grown
    values[values < 0] = -np.inf
    return Shapes(values, width, share)


Guess = tuple[int, float]
"""A token, and its chance of being chosen."""


def grow(
    guesses: Callable[[tuple[int, ...]], Sequence[Guess]], most: int, least: float = 0.0
) -> list[Candidate]:
    """The ``most`` likeliest candidates that form a tree, likeliest first.

    ``guesses(path)`` is asked once for every path of tokens that is taken, () first: the tokens
    that may follow it, likeliest first, each once. Nothing is taken whose chance, with all its
    ancestors, is below ``least``. Siblings are taken in their order, so any rule that judges tokens
    as they are may judge them.
    """
    taken: list[Candidate] = []
    heap: list[tuple[float, int, int, tuple[int, ...], float, Sequence[Guess]]] = []

    def offer(
        parent: int, path: tuple[int, ...], above: float, known: Sequence[Guess], rank: int
    ) -> None:
        if rank < len(known) and above * known[rank][1] >= max(least, 1e-12):
            worth = above * known[rank][1]
            heapq.heappush(heap, (-worth, parent, rank, path, above, known))

    if most > 0:
        offer(-1, (), 1.0, guesses(()), 0)
    while heap and len(taken) < most:
        _, parent, rank, path, above, known = heapq.heappop(heap)
        token, chance = known[rank]
        taken.append(Candidate(token, parent, chance))
        offer(parent, path, above, known, rank + 1)
        if len(taken) < most:
            below = (*path, token)
            offer(len(taken) - 1, below, above * chance, guesses(below), 0)
    return taken


def grow_drawn(
    drawn: Callable[[tuple[int, ...]], tuple[F64, Sequence[int]]], most: int, least: float = 0.0
) -> list[Candidate]:
    """As ``grow``, of children drawn without replacement, for rules that judge distributions.

    ``drawn(path)`` is the draft's distribution after a path, ``[vocab]``, and the children that the
    rule's ``offer`` drew from it. A slot is worth what is left of the distribution when its turn
    comes, whichever token will fill it: so nothing is left out for having been seen.
    """
    taken: list[Candidate] = []
    heap: list[tuple[float, int, int, tuple[int, ...], F64, float, Sequence[int]]] = []

    def offer(
        worth: float,
        parent: int,
        rank: int,
        path: tuple[int, ...],
        spread: F64,
        left: float,
        children: Sequence[int],
    ) -> None:
        if rank < len(children) and left > 1e-12 and worth >= max(least, 1e-12):
            heapq.heappush(heap, (-worth, parent, rank, path, spread, left, children))

    if most > 0:
        spread, children = drawn(())
        offer(1.0, -1, 0, (), spread, 1.0, children)
    while heap and len(taken) < most:
        worth, parent, rank, path, spread, left, children = heapq.heappop(heap)
        token = children[rank]
        chance = min(1.0, float(spread[token]) / left)
        taken.append(Candidate(token, parent, chance))
        remains = left - float(spread[token])
        offer(-worth * (1 - chance), parent, rank + 1, path, spread, remains, children)
        if len(taken) < most:
            below = (*path, token)
            spread, children = drawn(below)
            offer(-worth * chance, len(taken) - 1, 0, below, spread, 1.0, children)
    return taken


def path_chances(candidates: Sequence[Candidate]) -> list[float]:
    """Of each candidate: the chance that it and all its ancestors are chosen."""
    chances: list[float] = []
    for candidate in candidates:
        above = chances[candidate.parent] if candidate.parent >= 0 else 1.0
        chances.append(above * candidate.chance)
    return chances
