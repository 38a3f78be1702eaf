"""Every outcome of something that chance decides, with its exact probability; walks down a tree."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hearthring.client.draft import Candidate
from hearthring.client.rejection import Verdict

T = TypeVar("T")


class _Script:
    """A ``Chance`` that repeats given answers, then takes the first possible one of each."""

    def __init__(self, answers: tuple[int, ...]) -> None:
        self.answers = list(answers)
        self.probability = 1.0
        self.untried: list[tuple[int, ...]] = []
        self._place = 0

    def happens(self, probability: float) -> bool:
        return self._answer([1 - probability, probability]) == 1

    def pick(self, weights: np.ndarray) -> int:
        return self._answer(list(weights / weights.sum()))

    def _answer(self, chances: list[float]) -> int:
        if self._place == len(self.answers):
            possible = [i for i, chance in enumerate(chances) if chance > 0]
            self.untried += [(*self.answers, i) for i in possible[1:]]
            self.answers.append(possible[0])
        answer = self.answers[self._place]
        self._place += 1
        self.probability *= chances[answer]
        return answer


def outcomes(run: Callable[[_Script], T]) -> Iterator[tuple[float, T]]:
    """``(probability, result)`` of every way that ``run`` can go."""
    untried: list[tuple[int, ...]] = [()]
    while untried:
        script = _Script(untried.pop())
        result = run(script)
        untried += script.untried
        yield script.probability, result


@dataclass(frozen=True, slots=True)
class Path:
    """Where a walk went: accepted candidates by index, root's child first, and one token more."""

    accepted: tuple[int, ...]
    token: int


def walk(proposal: Sequence[Candidate], judge: Callable[[int, tuple[int, ...]], Verdict]) -> Path:
    """From the root down while a child is accepted; what ``judge`` chose last ends the path.

    ``judge(at, children)`` gets a candidate's index, -1 for the root, and its children's tokens in
    the proposal's order. A parent stands before its children. n accepted candidates yield n + 1
    tokens, so at least one.
    """
    children: dict[int, list[int]] = {}
    for index, candidate in enumerate(proposal):
        assert -1 <= candidate.parent < index
        children.setdefault(candidate.parent, []).append(index)
    accepted, at = list[int](), -1
    while True:
        below = children.get(at, [])
        verdict = judge(at, tuple(proposal[index].token for index in below))
        if verdict.child < 0:
            return Path(tuple(accepted), verdict.token)
        at = below[verdict.child]
        accepted.append(at)
