"""Learning which of several ways is best while using them.

``Hedge`` hears after each round how every arm would have fared: verified tokens score every draft,
used or not (Liu et al., "Not-a-Bandit", ICLR 2026). ``Ucb`` and ``Exp3`` hear only how the arm they
chose has fared: sizes and depths can't be tried in thought. They are the two learners of Hou et
al., "BanditSpec", ICML 2025: UCBSpec for texts that stay as they are, EXP3Spec for ones that change
their nature on the way.

Rewards are 0 to 1; ``Ucb`` and ``Exp3`` take no others, so whoever rewards tokens a second divides
by the most that could be. Regret is what the best arm alone would have got more. Nothing here draws
chance from outside: ``Exp3`` gets its own seed.
"""

from collections.abc import Sequence
from math import exp, inf, log, sqrt
from random import Random

from hearthring.protocol.errors import BadOption


class Hedge:
    """Weights that fall exponentially with what each arm has lost (Freund, Schapire, 1997).

    With learning rate √(8 ln N / t) in round t the regret of T rounds is at most
    2 · √(T/2 · ln N) + √(ln N / 8) (Cesa-Bianchi, Lugosi, 2006, theorem 2.3). ``memory`` below
    infinity lets a loss count for so many rounds, so that the best arm may change.
    """

    def __init__(self, arms: int, memory: float = inf) -> None:
        self._losses = [0.0] * _some(arms)
        self._kept = 1 - 1 / memory
        self._rounds = 0.0

    def weights(self) -> list[float]:
        """How much to rely on each arm; the sum is 1."""
        rate = sqrt(8 * log(len(self._losses)) / max(self._rounds, 1.0))
        least = min(self._losses)
        heap = [exp(-rate * (loss - least)) for loss in self._losses]
        return [weight / sum(heap) for weight in heap]

    def choose(self) -> int:
        """The arm to rely on, if it has to be one: that of the least loss, the first of equals."""
        return self._losses.index(min(self._losses))

    def reward(self, rewards: Sequence[float]) -> None:
        """What each arm got, or would have got, in a round. Raises ``BadOption``."""
        if len(rewards) != len(self._losses):
            raise BadOption(f"{len(rewards)} for {len(self._losses)} arms", field="rewards")
        checked = [_reward(value) for value in rewards]
        self._rounds = self._rounds * self._kept + 1
        self._losses = [
            loss * self._kept + 1 - value for loss, value in zip(self._losses, checked, strict=True)
        ]


class Ucb:
    """The arm that may be best: mean + √(2 ln t / n), n the times that *this* arm was chosen.

    UCB1 of Auer, Cesa-Bianchi, Fischer, 2002: its regret grows as Σ 8 ln T / gap over the arms that
    aren't best. ``width`` scales the second term: below 1 explores less and promises less.
    """

    def __init__(self, arms: int, width: float = 1.0) -> None:
        self.counts = [0.0] * _some(arms)
        """How often each was chosen, pseudo-rounds of ``expect`` included."""
        self._sums = [0.0] * arms
        self._width = width

    def expect(self, arm: int, reward: float, rounds: float) -> None:
        """Begin with an expectation that counts as so many rounds."""
        self._sums[arm] += _reward(reward) * rounds
        self.counts[arm] += rounds

    def choose(self) -> int:
        """An arm not chosen yet, else the one with the highest bound; the first of equals."""
        bounds = [self.bound(arm) for arm in range(len(self.counts))]
        return bounds.index(max(bounds))

    def bound(self, arm: int) -> float:
        """What the arm may be worth: its mean, and more the less it is known."""
        if not self.counts[arm]:
            return inf
        total = max(sum(self.counts), 1.0)
        return self.mean(arm) + self._width * sqrt(2 * log(total) / self.counts[arm])

    def mean(self, arm: int) -> float:
        """What the arm got so far; 0 before it was ever chosen."""
        return self._sums[arm] / self.counts[arm] if self.counts[arm] else 0.0

    def reward(self, arm: int, reward: float) -> None:
        """What the chosen arm got. Raises ``BadOption``."""
        self._sums[arm] += _reward(reward)
        self.counts[arm] += 1


class Exp3:
    """An arm by chance, in proportion to exponential weights of estimated losses.

    A loss is divided by the chance that its arm was chosen. With learning rate √(ln K / (t K)) the
    expected regret of T rounds is at most 2 · √(T K ln K) against whatever rewards come (Bubeck,
    Cesa-Bianchi, 2012, theorem 3.1).
    """

    def __init__(self, arms: int, seed: int = 0) -> None:
        self._losses = [0.0] * _some(arms)
        self._draw = Random(seed)  # noqa: S311 - explores, protects nothing
        self._rounds = 0

    def chances(self) -> list[float]:
        """How likely each arm is chosen next; the sum is 1."""
        arms = len(self._losses)
        rate = sqrt(log(arms) / ((self._rounds + 1) * arms))
        least = min(self._losses)
        heap = [exp(-rate * (loss - least)) for loss in self._losses]
        return [weight / sum(heap) for weight in heap]

    def choose(self) -> int:
        chances = self.chances()
        return self._draw.choices(range(len(chances)), chances)[0]

    def reward(self, arm: int, reward: float) -> None:
        """What the chosen arm got; once for every ``choose``. Raises ``BadOption``."""
        self._losses[arm] += (1 - _reward(reward)) / self.chances()[arm]
        self._rounds += 1


def _some(arms: int) -> int:
    if arms < 1:
        raise BadOption("there is nothing to choose", field="arms")
    return arms


def _reward(value: float) -> float:
    if not 0 <= value <= 1:
        raise BadOption(f"{value} isn't 0 to 1", field="reward")
    return value
