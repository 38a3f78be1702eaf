"""Learners on synthetic arms: their regret grows as the papers say, and drift is followed."""

from collections.abc import Callable
from math import inf, log, sqrt
from random import Random

import pytest

from hearthring.client.bandits import Exp3, Hedge, Ucb
from hearthring.protocol.errors import BadOption

MEANS = (0.4, 0.1, 0.8, 0.3, 0.2)
BEST = MEANS.index(max(MEANS))


def regret_of(learner: Ucb | Exp3, rounds: int, seed: int) -> tuple[float, float]:
    """Expected regret of the arms chosen in a quarter of the rounds, and in all."""
    draw, lost, early = Random(seed), 0.0, 0.0
    for number in range(rounds):
        arm = learner.choose()
        learner.reward(arm, float(draw.random() < MEANS[arm]))
        lost += MEANS[BEST] - MEANS[arm]
        if number + 1 == rounds // 4:
            early = lost
    return early, lost


def mean_regret(make: Callable[[int], Ucb | Exp3], rounds: int, runs: int) -> tuple[float, float]:
    results = [regret_of(make(seed), rounds, 100 + seed) for seed in range(runs)]
    early, late = zip(*results, strict=True)
    return sum(early) / runs, sum(late) / runs


def test_ucb_loses_as_the_logarithm() -> None:
    rounds = 8_000
    early, late = mean_regret(lambda seed: Ucb(len(MEANS)), rounds, 3)
    gaps = [MEANS[BEST] - mean for mean in MEANS if mean < MEANS[BEST]]
    assert late <= sum(8 * log(rounds) / gap + (1 + 3.29) * gap for gap in gaps)
    # Four times the rounds: ln grows by 18 %, √ by 100 %, what never learns by 300 %.
    assert late < 1.5 * early
    assert late > early > 0


def test_ucb_counts_each_arm_apart() -> None:
    """With one bonus for all, an arm that began badly would never be tried again."""
    learner = Ucb(2)
    learner.reward(0, 0.0)
    learner.reward(1, 0.5)
    for _ in range(200):
        learner.reward(1, 0.5)
    assert learner.bound(0) > learner.bound(1)
    assert learner.choose() == 0
    assert learner.counts == [1, 201]


def test_ucb_begins_with_what_it_expects() -> None:
    learner = Ucb(3, width=0.1)
    for arm, reward in enumerate((0.2, 0.8, 0.5)):
        learner.expect(arm, reward, 8)
    assert learner.choose() == 1
    assert [learner.mean(arm) for arm in range(3)] == pytest.approx([0.2, 0.8, 0.5])
    for _ in range(40):
        learner.reward(1, 0.0)
    assert learner.choose() == 2
    assert Ucb(1).bound(0) == inf
    assert Ucb(1).mean(0) == 0


def test_exp3_loses_as_the_root() -> None:
    rounds, arms = 8_000, len(MEANS)
    early, late = mean_regret(lambda seed: Exp3(arms, seed), rounds, 3)
    assert late <= 2 * sqrt(rounds * arms * log(arms))
    assert early <= 2 * sqrt(rounds / 4 * arms * log(arms))
    assert late < 2.6 * early  # √4, and what chance adds


def test_exp3_keeps_its_bound_when_the_arms_change() -> None:
    rounds, runs, lost = 4_000, 3, 0.0
    for run in range(runs):
        learner, draw = Exp3(2, run), Random(100 + run)
        for number in range(rounds):
            # Arm 0 is better at first, arm 1 over all.
            means = (0.6, 0.5) if number < rounds / 4 else (0.1, 0.5)
            arm = learner.choose()
            learner.reward(arm, float(draw.random() < means[arm]))
            lost += (means[1] - means[arm]) / runs
    assert lost <= 2 * sqrt(rounds * 2 * log(2))


def test_hedge_keeps_its_bound_against_any_rewards() -> None:
    arms, rounds = 4, 3_000
    draw = Random(1)
    for kind in ("chance", "turns", "late"):
        hedge, got, sums = Hedge(arms), 0.0, [0.0] * arms
        for number in range(rounds):
            rewards = [draw.random() * (1 + arm) / arms for arm in range(arms)]
            if kind == "turns":
                rewards = [float(number // 7 % arms == arm) for arm in range(arms)]
            elif kind == "late" and number < rounds / 2:
                rewards.reverse()
            got += sum(w * r for w, r in zip(hedge.weights(), rewards, strict=True))
            sums = [total + reward for total, reward in zip(sums, rewards, strict=True)]
            hedge.reward(rewards)
        bound = 2 * sqrt(rounds / 2 * log(arms)) + sqrt(log(arms) / 8)
        assert max(sums) - got <= bound, kind


def test_hedge_relies_on_the_best_and_notices_a_change() -> None:
    lasting, short = Hedge(2), Hedge(2, memory=50)
    assert lasting.weights() == [0.5, 0.5]
    for _ in range(400):
        lasting.reward([0.9, 0.1])
        short.reward([0.9, 0.1])
    assert lasting.choose() == short.choose() == 0
    assert lasting.weights()[0] > 0.999
    for _ in range(100):
        lasting.reward([0.1, 0.9])
        short.reward([0.1, 0.9])
    assert (lasting.choose(), short.choose()) == (0, 1)
    assert Hedge(1).weights() == [1.0]


def test_what_is_refused() -> None:
    for make in (Hedge, Ucb, Exp3):
        with pytest.raises(BadOption, match="arms"):
            make(0)
    for reward in (-0.1, 1.1, float("nan")):
        with pytest.raises(BadOption, match="reward"):
            Ucb(2).reward(0, reward)
        with pytest.raises(BadOption, match="reward"):
            Exp3(2).reward(0, reward)
        with pytest.raises(BadOption, match="reward"):
            Hedge(2).reward([0.5, reward])
    with pytest.raises(BadOption, match="rewards"):
        Hedge(2).reward([0.5])
