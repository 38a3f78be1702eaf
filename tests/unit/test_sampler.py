"""Choosing tokens: order of the steps, ties, refusals, and the distribution."""

import math

import numpy as np
import pytest

from hearthring.client.philox import gumbel
from hearthring.client.sampler import Sampling, choose, lead
from hearthring.protocol.errors import BadOption, BadShape, NonFinite

INF = float("inf")
CHI_SQUARE_1E4 = {3: 21.11, 7: 29.88, 9: 33.72}
"""Quantiles at 1 - 1e-4, by degrees of freedom."""


def logits(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def seen_at(values: np.ndarray, sampling: Sampling, positions: int) -> np.ndarray:
    chosen = [choose(values, [], position, sampling) for position in range(positions)]
    return np.bincount(chosen, minlength=values.size)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", 1e-9),
        ("temperature", 101),
        ("temperature", math.nan),
        ("temperature", INF),
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", None),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_k", True),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", math.nan),
        ("repetition_penalty", INF),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 1.0),
    ],
)
def test_options_outside_their_range_are_named(field: str, value: object) -> None:
    with pytest.raises(BadOption) as caught:
        Sampling(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field
    assert caught.value.mend.startswith("allowed: ")


def test_options_at_the_ends_of_their_range() -> None:
    Sampling(1e-3, 0, 1e-300, 0, 0.01, 0)
    Sampling(100, 2**31 - 1, 1, 1, 100, 2**64 - 1)


def test_a_seed_is_drawn_only_when_chance_plays_a_part() -> None:
    assert Sampling().seeded() == Sampling()
    assert Sampling(temperature=1, seed=3).seeded().seed == 3
    one, other = Sampling(temperature=1).seeded(), Sampling(temperature=1).seeded()
    assert one.seed is not None
    assert one.seed != other.seed
    with pytest.raises(BadOption, match="seed"):
        choose(logits(1, 2), [], 0, Sampling(temperature=1))


def test_temperature_zero_takes_the_highest_and_lowest_id() -> None:
    assert choose(logits(1, 5, 5, 2), [], 0, Sampling()) == 1
    assert choose(logits(-INF, -1, -1), [], 0, Sampling()) == 1
    assert choose(logits(1, 5, 5, 2), [], 0, Sampling(top_k=1, top_p=0.1, min_p=1)) == 1


def test_repetition_penalty() -> None:
    penalty = Sampling(repetition_penalty=2)
    assert choose(logits(3, 2, 1), [0], 0, penalty) == 1
    assert choose(logits(3, 2, 1), [0, 0, 0, 0], 0, penalty) == 1  # once, however often
    assert choose(logits(3, 2, 1), [0, 1], 0, penalty) == 0
    assert choose(logits(-3, -2, -5), [1], 0, penalty) == 0  # -4 < -3
    assert choose(logits(4, 2, 1), [0], 0, penalty) == 0  # a tie: the lowest id
    assert choose(logits(3, 2, 1), [], 0, penalty) == 0
    assert choose(logits(2, 3, -INF), [1, 2], 0, penalty) == 0
    assert lead(logits(3, 2, 1), [0], 0, penalty, 0) == (1, 0.5)


@pytest.mark.parametrize("history", [[-1], [3], [0, 7]])
def test_history_outside_the_vocabulary(history: list[int]) -> None:
    with pytest.raises(BadOption, match="history"):
        choose(logits(1, 2, 3), history, 0, Sampling(repetition_penalty=1.1))


@pytest.mark.parametrize(
    "values", [(1, math.nan), (math.nan, math.nan), (INF, 1), (-INF, -INF), (math.nan, INF)]
)
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_mean_nothing(values: tuple[float, ...], temperature: float) -> None:
    with pytest.raises(NonFinite):
        choose(logits(*values), [], 0, Sampling(temperature=temperature, seed=1))


def test_logits_are_one_row() -> None:
    for values in (np.zeros((2, 3), np.float32), np.zeros(0, np.float32)):
        with pytest.raises(BadShape):
            choose(values, [], 0, Sampling())


def test_the_rule_is_the_published_one() -> None:
    values = np.random.default_rng(0).standard_normal(500).astype(np.float32)
    for position in range(50):
        scores = values.astype(np.float64) / 0.7 + gumbel(11, position, np.arange(500))
        sampling = Sampling(temperature=0.7, seed=11)
        assert choose(values, [], position, sampling) == int(scores.argmax())
        best = np.sort(scores)
        second = int(scores.argsort()[-2])
        assert lead(values, [], position, sampling, second)[1] == best[-1] - best[-2]


def test_a_forbidden_token_is_never_chosen() -> None:
    values = logits(-INF, 0, -INF, 0)
    counts = seen_at(values, Sampling(temperature=100, seed=0), 500)
    assert counts[0] == counts[2] == 0
    assert counts[1] > 150
    assert counts[3] > 150


def kept(values: np.ndarray, **options: float) -> set[int]:
    sampling = Sampling(temperature=1, seed=1, **options)  # type: ignore[arg-type]
    return set(np.flatnonzero(seen_at(values, sampling, 400)).tolist())


def test_cut_offs() -> None:
    flat = logits(0, 0, 0, 0)
    assert kept(flat) == {0, 1, 2, 3}
    assert kept(flat, top_k=2) == {0, 1}
    assert kept(flat, top_k=9) == {0, 1, 2, 3}
    assert kept(flat, top_p=0.5) == {0, 1}
    assert kept(flat, top_p=0.51) == {0, 1, 2}
    assert kept(flat, top_p=1e-9) == {0}
    assert kept(flat, min_p=1) == {0, 1, 2, 3}
    slope = np.log(logits(1, 4, 2, 1))
    assert kept(slope, top_k=3) == {0, 1, 2}
    assert kept(slope, top_p=0.5) == {1}
    assert kept(slope, top_p=0.6) == {1, 2}
    assert kept(slope, min_p=0.4) == {1, 2}
    assert kept(slope, top_k=2, top_p=0.66) == {1}  # 4/6 of what top-k left
    assert kept(slope, top_k=2, top_p=0.67) == {1, 2}
    assert kept(slope, top_p=0.9, min_p=0.6) == {1}


def test_lead_over_a_token() -> None:
    assert lead(logits(1, 2, 3), [], 0, Sampling(temperature=1, top_k=1, seed=0), 0) == (2, INF)
    assert lead(logits(1, 2, 3), [], 0, Sampling(temperature=1, top_k=1, seed=0), 2) == (2, 0)
    assert lead(logits(1), [], 0, Sampling(), 0) == (0, 0)
    assert lead(logits(1, -INF), [], 0, Sampling(), 1) == (0, INF)
    assert lead(logits(2, 2), [], 0, Sampling(), 1) == (0, 0)
    assert lead(logits(1, 2.5, 2), [], 0, Sampling(), 2) == (1, 0.5)
    assert lead(logits(1, 2), [], 0, Sampling(), 7) == (1, INF)


def test_inputs_are_left_alone() -> None:
    values = np.arange(100, dtype=np.float32)
    sampling = Sampling(1, 50, 0.9, 0.01, 1.5, 0)
    choose(values, [1, 2, 99], 0, sampling)
    assert (values == np.arange(100)).all()


@pytest.mark.parametrize(
    ("sampling", "survivors"),
    [
        (Sampling(temperature=1, seed=1), 8),
        (Sampling(temperature=0.6, seed=2**63 + 5), 8),
        (Sampling(temperature=1.5, top_k=4, seed=3), 4),
    ],
)
def test_distribution_is_the_softmax(sampling: Sampling, survivors: int) -> None:
    values, draws = logits(0.3, 1.2, -0.5, 0.0, 1.0, -0.2, 0.7, 0.1), 20_000
    weights = np.exp(values.astype(np.float64) / sampling.temperature)
    weights[np.argsort(-weights)[survivors:]] = 0
    expected = draws * weights / weights.sum()
    counts = seen_at(values, sampling, draws)
    assert counts[expected == 0].sum() == 0
    alive = expected > 0
    statistic = ((counts[alive] - expected[alive]) ** 2 / expected[alive]).sum()
    assert statistic < CHI_SQUARE_1E4[survivors - 1]


def test_distribution_over_seeds_at_one_position() -> None:
    values, draws = np.zeros(10, np.float32), 5_000
    chosen = [choose(values, [], 7, Sampling(temperature=1, seed=seed)) for seed in range(draws)]
    statistic = ((np.bincount(chosen, minlength=10) - 500.0) ** 2 / 500).sum()
    assert statistic < CHI_SQUARE_1E4[9]
