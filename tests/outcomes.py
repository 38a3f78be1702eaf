"""Every outcome of something that chance decides, with its exact probability."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

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
