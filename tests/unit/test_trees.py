"""Trees: the dynamic programme against every tree there is, and greedy growth."""

from collections.abc import Iterator
from functools import cache
from itertools import permutations

import numpy as np
import pytest

from hearthring.client.acceptance import rule_named
from hearthring.client.draft import Candidate
from hearthring.client.trees import best_shapes, grow, grow_drawn, path_chances

Tree = tuple["Tree", ...]
"""The children of a place, by rank."""


@cache
def forests(rows: int, depth: int, width: int) -> tuple[Tree, ...]:
    """Every tree of so many candidates, levels and children of a place."""

    def split(left: int, places: int) -> Iterator[Tree]:
        if left == 0:
            yield ()
        elif places and depth:
            for first in range(1, left + 1):
                for child in forests(first - 1, depth - 1, width):
                    for rest in split(left - first, places - 1):
                        yield (child, *rest)

    return tuple(split(rows, width))


def accepted(tree: Tree, acceptance: tuple[float, ...]) -> float:
    return sum(
        chance * (1 + accepted(child, acceptance))
        for chance, child in zip(acceptance, tree, strict=False)
    )


ACCEPTANCES = [(0.6, 0.2, 0.1), (0.4, 0.35, 0.25), (0.9,), (0.2, 0.5, 0.3), (0.3, 0.0, 0.6)]


@pytest.mark.parametrize("acceptance", ACCEPTANCES)
def test_the_programme_finds_what_a_search_finds(acceptance: tuple[float, ...]) -> None:
    shapes = best_shapes(acceptance, 7, 5)
    for depth in range(6):
        for rows in range(8):
            every = forests(rows, depth, len(acceptance))
            best = max((accepted(tree, acceptance) for tree in every), default=-np.inf)
            assert shapes.values[depth, rows] == pytest.approx(best, abs=1e-12)
            if every:
                check_shape(shapes.tree(rows, depth), rows, depth, acceptance, best)


def check_shape(
    tree: tuple[tuple[int, int], ...],
    rows: int,
    depth: int,
    acceptance: tuple[float, ...],
    value: float,
) -> None:
    """The tree is one, within its bounds, and worth what its value says."""
    assert len(tree) == rows
    chances, levels, children = [], [], dict[int, int]()
    for place, (parent, rank) in enumerate(tree):
        assert parent < place
        assert rank == children.setdefault(parent, 0)
        children[parent] += 1
        chances.append(acceptance[rank] * (chances[parent] if parent >= 0 else 1))
        levels.append(1 + (levels[parent] if parent >= 0 else 0))
    assert max(levels, default=0) <= depth
    assert sum(chances) == pytest.approx(value, abs=1e-12)


def test_without_a_limit_to_depth_the_likeliest_places_win() -> None:
    acceptance, rows = (0.7, 0.1, 0.05), 64
    places, chances = list(acceptance), []
    while len(chances) < rows:
        chances.append(max(places))
        places.remove(chances[-1])
        places += [chances[-1] * share for share in acceptance]
    assert best_shapes(acceptance, rows, 24).values[24, rows] == pytest.approx(sum(chances))
    flat = best_shapes(acceptance, rows, 3)
    assert flat.values[3, 39] == pytest.approx(sum(0.85**level for level in (1, 2, 3)))
    assert flat.values[3, 40] == -np.inf  # 3 + 9 + 27 places
    assert flat.values.shape == (4, 65)


def spread(path: tuple[int, ...], size: int = 5) -> np.ndarray:
    return np.random.default_rng([7, *path]).dirichlet(np.ones(size))


def guesses(path: tuple[int, ...]) -> list[tuple[int, float]]:
    chances = spread(path)
    return [(int(token), float(chances[token])) for token in np.argsort(-chances)]


def paths(candidates: list[Candidate]) -> list[tuple[int, ...]]:
    made: list[tuple[int, ...]] = []
    for place, candidate in enumerate(candidates):
        assert candidate.parent < place
        above = made[candidate.parent] if candidate.parent >= 0 else ()
        made.append((*above, candidate.token))
    return made


def test_growth_takes_the_likeliest_paths() -> None:
    grown = grow(guesses, 20)
    chances = path_chances(grown)
    assert chances == sorted(chances, reverse=True)
    every = [
        np.prod([spread(path[:i])[path[i]] for i in range(length)])
        for length in range(1, 5)
        for path in np.ndindex(*(5,) * length)
    ]
    assert chances[:16] == pytest.approx(sorted(every, reverse=True)[:16])  # of four levels
    assert len(set(paths(grown))) == 20
    for fewer in range(20):
        assert grow(guesses, fewer) == grown[:fewer]


def test_growth_stops_below_what_pays() -> None:
    grown = grow(guesses, 1000, least=0.05)
    assert 0 < len(grown) < 1000
    assert min(path_chances(grown)) >= 0.05
    assert path_chances(grow(guesses, len(grown) + 1))[-1] < 0.05
    assert grow(lambda path: [], 5) == []
    assert grow(lambda path: [(1, 0.0)], 5) == []
    assert len(grow(lambda path: [(1, 0.5)] if len(path) < 3 else [], 9)) == 3


def test_growth_asks_for_every_path_once() -> None:
    asked: list[tuple[int, ...]] = []

    def asking(path: tuple[int, ...]) -> list[tuple[int, float]]:
        asked.append(path)
        return guesses(path)

    grown = grow(asking, 12)
    assert len(asked) == len(set(asked)) == 12
    assert set(asked) <= {(), *paths(grown)}


def test_drawn_growth_takes_children_in_the_order_they_were_drawn() -> None:
    rule = rule_named("sequoia")

    def drawn(path: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
        return spread(path), rule.offer(spread(path), 5, 3, len(path))

    grown = grow_drawn(drawn, 30)
    assert len(set(paths(grown))) == 30
    for at in range(-1, 30):
        path = () if at < 0 else paths(grown)[at]
        children = [c.token for c in grown if c.parent == at]
        assert tuple(children) == drawn(path)[1][: len(children)]
    assert grow_drawn(drawn, 10) == grown[:10]
    assert grow_drawn(drawn, 0) == []
    assert len(grow_drawn(drawn, 1000, least=0.1)) < 100
    alone = grow_drawn(lambda path: (np.array([0.0, 1.0]), (1, 0)), 3)
    assert [c.token for c in alone] == [1, 1, 1]


def test_a_drawn_slot_is_taken_or_not_whatever_was_drawn_for_it() -> None:
    """How many children a place gets depends on the children before, never on the next one."""
    chances = np.array([0.5, 0.3, 0.2])
    counts: dict[tuple[int, ...], set[int]] = {}
    for order in permutations(range(3)):

        def drawn(
            path: tuple[int, ...], order: tuple[int, ...] = order
        ) -> tuple[np.ndarray, tuple[int, ...]]:
            return chances, order if not path else ()

        taken = len(grow_drawn(drawn, 9, least=0.25))
        counts.setdefault(order[: taken - 1], set()).add(taken)
    assert {number for many in counts.values() for number in many} == {2, 3}
    assert all(len(many) == 1 for many in counts.values())
