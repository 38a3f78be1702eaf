"""What ways to speculate should bring, and what a draft's own chances are worth."""

from itertools import pairwise

import numpy as np
import pytest

from hearthring.client.calibration import PRIOR, Calibration, isotonic
from hearthring.client.cost import (
    Hop,
    Plan,
    Ring,
    best,
    chain,
    pipeline,
    plain,
    plans,
    rows_worth,
    survivals,
    tree,
)
from hearthring.client.draft import Candidate
from hearthring.shards.timings import Fit


def home(hop: float = 0.01, stages: int = 4, growth: float = 0.1, draft: float = 0.0) -> Ring:
    return Ring(
        (Fit(0.02 * (1 - growth), 0.02 * growth),) * stages, (Hop(hop),) * (stages + 1), draft=draft
    )


def test_a_trip_and_a_turn() -> None:
    ring = Ring(
        (Fit(0.01, 0.001), Fit(0.02, 0.003)),
        (Hop(0.005), Hop(0.001, 0.01), Hop(0.002)),
        ends=Fit(0.004, 0.002),
    )
    assert ring.trip(3) == pytest.approx(0.013 + 0.029 + 0.008 + 0.03 + 0.01)
    assert ring.turn(1) == pytest.approx(0.023)
    assert ring.turn(3) == pytest.approx(0.03)  # the link's bytes take longer than either stage
    assert ring.marginal(3) == pytest.approx(0.001 + 0.003 + 0.01 + 0.002)
    shared = Ring(ring.stages, ring.hops, processors=1)
    assert shared.turn(1) == pytest.approx(0.011 + 0.023)


def test_survivals_of_a_chain() -> None:
    some = survivals([0.5, 0.8])
    assert [next(some) for _ in range(4)] == pytest.approx([0.5, 0.4, 0.32, 0.256])
    nothing = survivals([])
    assert [next(nothing) for _ in range(2)] == [0, 0]


def test_chains_have_their_closed_form() -> None:
    ring = home(draft=0.005)
    for drafted in (1, 4, 8):
        plan = chain(ring, [0.7], drafted)
        assert plan.tokens == pytest.approx((1 - 0.7 ** (drafted + 1)) / 0.3)
        seconds = 4 * (0.018 + 0.002 * (drafted + 1)) + 5 * 0.01 + drafted * 0.005
        assert plan.seconds == pytest.approx(seconds)
    assert plain(ring).rate == pytest.approx(1 / 0.13)


def test_one_flight_in_a_pipeline_is_a_chain() -> None:
    """N accepted drafts take 1 + ⌊N / c⌋ trips; a chain of c − 1 drafts is the same machine."""
    ring = home()
    for rows in (1, 3, 6):
        one, waiting = pipeline(ring, [0.7], rows, 1), chain(ring, [0.7], rows - 1)
        assert one.rate == pytest.approx(waiting.rate, rel=1e-6)


def test_more_flights_never_cost() -> None:
    ring = home(0.05)
    for acceptance in ([0.3], [0.85], [0.9, 0.5, 0.2]):
        rates = [pipeline(ring, acceptance, 2, flights).rate for flights in range(2, 20)]
        assert all(after >= 0.98 * before for before, after in pairwise(rates))
    # Enough of them leave the slowest part as the limit: 1 + L tokens in R + L / c turns.
    full = pipeline(ring, [0.85], 1, 64)
    runs = 0.85 / 0.15
    wait = ring.turn(1) / 2  # of a correction, behind what it has refuted
    seconds = ring.trip(1) + wait + runs * ring.turn(1)
    assert full.rate == pytest.approx((1 + runs) / seconds, rel=1e-6)


def test_what_is_best_where() -> None:
    assert best(plans(home(), [0.01])).name == "plain"
    assert best(plans(home(), [])).name == "plain"
    assert best(plans(home(0.0, growth=0.9), [0.4], flights=(1,))).name == "plain"
    far = best(plans(home(0.05, growth=0.01), [0.85]))
    assert far.flights > 1
    assert far.rate > 4 * plain(home(0.05)).rate
    waiting = best(plans(home(0.05), [0.85], flights=(1,)))
    assert waiting.rows > best(plans(home(0.0), [0.85], flights=(1,))).rows > 1


def test_under_load_wasted_rows_have_a_price() -> None:
    """What is wasted falls as a wasted row gets dearer, until nothing is drafted."""
    found = [best(plans(home(), [0.7]), price) for price in (0.0, 0.005, 0.02, 0.05, 1.0)]
    wasted = [plan.wasted for plan in found]
    assert wasted == sorted(wasted, reverse=True)
    assert wasted[0] > 4
    assert found[-1].name == "plain"
    assert plain(home()).wasted == 0
    assert chain(home(), [0.7], 2).wasted == pytest.approx(2 - 0.7 - 0.49)


def test_a_plan_that_asks_for_more_must_gain() -> None:
    few, many = Plan(2, 1, 1.0, 1.0), Plan(8, 1, 1.01, 1.0)
    assert best(iter((many, few))) == few
    assert best(iter((many, few)), gain=0.0) == many
    assert [few.name, Plan(3, 4, 1, 1).name] == ["chain of 1", "4 steps of 3"]
    assert tree(home(), 1.5, 9, 0.01).name == "tree of 8"
    assert tree(home(), 1.5, 9, 0.01).tokens == 2.5


def test_how_many_rows_are_worth_it() -> None:
    def seconds(rows: int) -> float:
        return 1 + 0.1 * rows

    assert rows_worth([], seconds) == 0
    assert rows_worth([0.05], seconds) == 0
    assert rows_worth([0.9, 0.8, 0.05, 0.04], seconds) == 2
    # One that doesn't pay alone may pay with the next: a step in the cost.
    assert rows_worth([0.3] * 8, lambda rows: 1.0 if rows < 2 else 2.0) == 8
    for chances in ([0.5, 0.4, 0.3, 0.2, 0.1, 0.05], [0.2] * 6):
        rates = [(1 + sum(chances[:n])) / seconds(n + 1) for n in range(7)]
        assert rows_worth(chances, seconds) == int(np.argmax(rates))


def test_isotonic_is_the_closest_rising_sequence() -> None:
    assert isotonic([1, 2, 3], [1, 1, 1]).tolist() == [1, 2, 3]
    assert isotonic([3, 1], [1, 3]).tolist() == [1.5, 1.5]
    assert isotonic([], []).tolist() == []
    draw = np.random.default_rng(0)
    for _ in range(30):
        values, weights = draw.random(6), draw.random(6) + 0.1
        fitted = isotonic(values, weights)
        assert (np.diff(fitted) >= 0).all()
        error = weights @ (fitted - values) ** 2
        for _ in range(200):
            other = np.sort(fitted + draw.normal(scale=0.05, size=6))
            assert weights @ (other - values) ** 2 >= error - 1e-12


def test_a_draft_is_taken_at_its_word_before_anything_was_seen() -> None:
    fresh = Calibration()
    for chance in (0.0, 0.02, 0.3, 0.77, 0.97, 1.0):
        assert fresh.rate(chance) == pytest.approx(chance, abs=0.02)


def test_an_overconfident_draft_is_corrected() -> None:
    draw, calibration = np.random.default_rng(1), Calibration()
    for _ in range(4000):
        stated = draw.random()
        calibration.saw(stated, bool(draw.random() < stated**2))
    for chance in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert calibration.rate(chance) == pytest.approx(chance**2, abs=0.07)
    rates = [calibration.rate(chance) for chance in np.linspace(0, 1, 101)]
    assert rates == sorted(rates)
    assert 0 <= rates[0] <= rates[-1] <= 1


def test_what_is_expected_of_a_draft_gives_way_to_what_it_does() -> None:
    draw, calibration = np.random.default_rng(3), Calibration()
    calibration.expect(-2.0, 8.0)
    assert calibration.rate(0.5) == pytest.approx(1 / (1 + np.exp(2)), abs=0.02)
    assert calibration.rate(0.0) <= calibration.rate(0.9) < 0.65
    for _ in range(6_000):
        stated = draw.random()
        calibration.saw(stated, bool(draw.random() < stated))
    for chance in (0.3, 0.5, 0.8):
        assert calibration.rate(chance) == pytest.approx(chance, abs=0.08)
    calibration.expect(0.0, 4.0)  # another opinion, the same experience
    assert calibration.rate(0.5) == pytest.approx(0.5, abs=0.08)


def test_old_experience_fades() -> None:
    calibration = Calibration()
    for _ in range(2000):
        calibration.saw(0.5, True)
    assert calibration.rate(0.5) > 0.95
    for _ in range(2000):
        calibration.saw(0.5, False)
    assert calibration.rate(0.5) < 0.1
    assert PRIOR < 10


def test_what_one_bucket_shows_leans_on_the_others() -> None:
    calibration = Calibration()
    for _ in range(6):
        calibration.saw(0.1, True)
    assert calibration.rate(0.5) > 0.8, "a text that can be guessed"
    for _ in range(40):
        calibration.saw(0.1, False)
    assert calibration.rate(0.5) < 0.6


def test_a_guess_that_comes_true_makes_those_behind_it_likelier() -> None:
    chain, calibration = [Candidate(7, at - 1, 0.1) for at in range(4)], Calibration()
    rated = [candidate.chance for candidate in calibration.ahead(chain)]
    assert rated[0] == pytest.approx(calibration.rate(0.1))
    assert rated == sorted(rated)
    assert rated[3] > 2 * rated[0]
    behind = calibration.ahead(chain, rated[:2])
    assert behind[0].chance == pytest.approx(rated[2])
    for place in range(400):
        calibration.saw(0.1, place % 10 == 0)
    known = [candidate.chance for candidate in calibration.ahead(chain)]
    assert known == pytest.approx([0.1] * 4, abs=0.03), "what is known needs no guess before it"
    fork = [Candidate(1, -1, 0.3), Candidate(2, -1, 0.3), Candidate(3, 0, 0.3)]
    first, second, below = calibration.ahead(fork)
    assert first.chance == second.chance <= below.chance
