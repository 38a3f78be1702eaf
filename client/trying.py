"""A pace that knows no model of the ring: it tries ways to guess, and keeps to what was fastest.

BanditSpec (Hou et al., ICML 2025) with its two learners: ``Ucb`` for texts and rings that stay as
they are, ``Exp3`` for ones that don't. For comparison with ``Controller``, which measures what
trips take and has far less to try; where times don't follow a line it may be the better one.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from hearthring.client.cost import Ring
from hearthring.client.draft import Candidate
from hearthring.client.pace import Explain, Fixed, Place, Trip

ARMS = (Fixed(), Fixed(2), Fixed(4), Fixed(8), Fixed(2, 4), Fixed(3, 8))
"""Ways to guess, the one without first: that arm keeps a bad draft from costing anything."""
HOLD = 8
"""Tokens for which an arm is kept: steps that are under way blur what came of it."""
BEST = 8.0
"""Times the plain rate that count as the whole reward; nothing counts more."""


WIDTH = 0.1
"""For ``Ucb``: rates differ less from run to run than from 0 to the whole reward."""


class Learner(Protocol):
    """What chooses among arms: ``bandits.Ucb`` or ``bandits.Exp3``."""

    def choose(self) -> int:
        """An arm."""

    def reward(self, arm: int, reward: float) -> None:
        """What it got, 0 to 1."""


class Trying:
    """A pace for one generation, over ``ARMS``. ``explain`` is told each choice, in words."""

    def __init__(self, learner: Learner, explain: Explain | None = None) -> None:
        self._learner, self._explain = learner, explain
        self._arm = 0
        """Plain first: the others are measured by it."""
        self._plain = 0.0
        self._tokens, self._seconds = 0, 0.0

    def expect(self, ring: Ring) -> None:
        """Nothing follows from it."""

    def ask(self, place: Place) -> int:
        return ARMS[self._arm].ask(place)

    def keep(self, place: Place, candidates: Sequence[Candidate]) -> Collection[int]:
        return ARMS[self._arm].keep(place, candidates)

    def drafted(self, candidates: int, seconds: float) -> None:
        """Nothing follows from it: the whole time counts."""

    def sent(self, steps: Sequence[int], flying: int) -> None:
        """Nothing follows from it."""

    def back(self, trip: Trip) -> None:
        """Nothing follows from it."""

    def judged(self, taken: Sequence[bool]) -> None:
        """Nothing follows from it."""

    def wrote(self, tokens: int, seconds: float) -> None:
        """So many tokens were chosen at once; after ``HOLD`` of them another arm may be better."""
        self._tokens += tokens
        self._seconds += seconds
        if self._tokens < HOLD or self._seconds <= 0:
            return
        rate = self._tokens / self._seconds
        if self._arm == 0:
            self._plain = rate
        reward = min(1.0, rate / self._plain / BEST) if self._plain else 0.0
        self._learner.reward(self._arm, reward)
        last, self._arm = self._arm, self._learner.choose()
        self._tokens, self._seconds = 0, 0.0
        if self._explain is not None:
            self._explain(
                f"{rate:.2f} tokens/s with {describe(ARMS[last])}, next {describe(ARMS[self._arm])}"
            )


def describe(arm: Fixed) -> str:
    """For people."""
    if not arm.rows:
        return "no guesses"
    return f"{arm.rows} guesses a step" + (f" in {arm.deep} steps" if arm.deep > 1 else "")
