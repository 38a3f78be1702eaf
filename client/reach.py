"""How far guesses should get, and what steps of them bring that follow each other. Pure."""

from collections.abc import Callable, Sequence

from hearthring.client.draft import Candidate

CHUNK, DEEP = 4, 12
"""Most rows of a step that follows others, and most steps at once."""


def paths(candidates: Sequence[Candidate]) -> tuple[list[int], list[float]]:
    """Candidates in the order of the chance that the text gets there, parents before children, and
    these chances."""
    chances = list[float]()
    for candidate in candidates:
        above = 1.0 if candidate.parent < 0 else chances[candidate.parent]
        chances.append(above * candidate.chance)
    order = sorted(range(len(candidates)), key=lambda index: (-chances[index], index))
    return order, [chances[index] for index in order]


def steady(candidates: Sequence[Candidate]) -> float:
    """The mean chance of a token of a chain, given the one before; 0 for what is no chain."""
    if not candidates or any(c.parent != at - 1 for at, c in enumerate(candidates)):
        return 0.0
    return min(0.98, sum(candidate.chance for candidate in candidates) / len(candidates))


def chunk(
    mean: float,
    trip: Callable[[int], float],
    turn: Callable[[int], float],
    crowded: float = 0.0,
) -> tuple[int, float]:
    """Rows of steps of a chain that follow each other at once, and the tokens a second they bring.

    Every token is right with a chance of ``mean``, given the one before. Between two corrections
    1 / (1 - mean) tokens come: the first step takes a ``trip``, each that follows it a ``turn``, as
    in ``cost.pipeline``. Of what flies behind it the first waits for a share, ``crowded``.
    """
    best = 1, 0.0
    for rows in range(1, CHUNK + 1):
        follow = mean**rows / (1 - mean**rows)
        behind = min(trip(rows) / turn(rows), DEEP - 1)
        first = trip(rows) + behind * crowded * turn(rows)
        seconds = first + follow * max(turn(rows), trip(rows) / DEEP)
        best = max(best, (rows, 1 / (1 - mean) / seconds), key=lambda found: found[1])
    return best
