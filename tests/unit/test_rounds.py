"""Which rounds show what: a plain token, a single step, one that others follow, a turn."""

import numpy as np
import pytest

from hearthring.client.cost import Hop, Ring
from hearthring.client.flight import Result
from hearthring.client.meter import CROWDED, Meter
from hearthring.client.pace import Trip
from hearthring.client.rounds import Rounds
from hearthring.protocol.messages import GENERATED, HopTime, Row
from hearthring.shards.timings import Fit

RING = Ring((Fit(0.001, 0.004),) * 4, (Hop(0.01),) * 5)
PLAIN = RING.trip(1)


def back(rounds: Rounds, rows: int, alone: bool = False) -> None:
    """A step of so many rows is back."""
    result = Result(
        1, (Row(1, 0, 0, GENERATED),) * rows, np.zeros((rows, 1)), (HopTime(0.0, 0.005),) * 4
    )
    rounds.back(Trip(result, 0.1, alone))


def known() -> tuple[Rounds, Meter]:
    """A ring of which a plain token is known."""
    meter = Meter()
    meter.expect(RING)
    rounds = Rounds(meter)
    rounds.sent([1], 0)
    back(rounds, 1, alone=True)
    rounds.wrote(PLAIN)
    return rounds, meter


def test_a_plain_round_shows_what_a_token_takes() -> None:
    rounds, meter = known()
    assert meter.sure
    assert meter.plain == pytest.approx(PLAIN)
    assert not rounds.guessed


def test_a_round_that_others_follow_is_no_plain_one() -> None:
    rounds, meter = known()
    for _ in range(20):
        rounds.sent([1, 1], 0)
        back(rounds, 1, alone=True)
        rounds.wrote(2 * PLAIN)
        rounds.sent([], 1)
        back(rounds, 1)
        rounds.wrote(0.01)
    assert rounds.guessed
    assert meter.plain == pytest.approx(PLAIN)


def test_it_shows_what_followers_take_from_it() -> None:
    rounds, meter = known()
    assert meter.crowded == CROWDED
    for share in (0.75, 1.0, 0.2):
        for _ in range(9):
            turn = meter.turning(2)
            rounds.sent([2, 2, 2, 2], 0)
            back(rounds, 2, alone=True)
            rounds.wrote(meter.seconds(2) + 3 * share * turn)
            rounds.sent([], 3)
            for _ in range(3):
                back(rounds, 2)
                rounds.wrote(turn)
        assert meter.crowded == pytest.approx(share)


def test_steps_that_left_together_show_a_turn() -> None:
    rounds, meter = known()
    rounds.sent([2, 3], 0)
    back(rounds, 2, alone=True)
    rounds.wrote(meter.seconds(2))
    for _ in range(30):
        rounds.sent([3, 3], 1)
        back(rounds, 3)  # the last one of those before
        rounds.wrote(0.009)
        rounds.sent([], 2)
        back(rounds, 3)  # it left a trip later than the one before it
        rounds.wrote(0.07)
    assert meter.turning(3) == pytest.approx(0.009, rel=0.01)


def test_steps_that_a_slow_draft_found_later_follow_as_well() -> None:
    rounds, meter = known()
    for _ in range(9):
        turn = meter.turning(2)
        rounds.sent([1], 0)
        rounds.sent([2], 1)
        back(rounds, 1, alone=True)
        rounds.wrote(meter.seconds(1) + turn)
        rounds.sent([], 1)
        back(rounds, 2)
        rounds.wrote(PLAIN)
    assert meter.plain == pytest.approx(PLAIN)
    assert meter.crowded == pytest.approx(1.0)
    assert meter.turning(2) == turn


def test_what_has_fallen_slows_the_next_round_which_shows_nothing() -> None:
    rounds, meter = known()
    rounds.sent([1, 1], 0)
    back(rounds, 1, alone=True)
    rounds.wrote(PLAIN)
    before = meter.seconds(2)
    rounds.sent([2], 0)  # the second step fell, and is still at the stages
    back(rounds, 2, alone=True)
    rounds.wrote(9 * PLAIN)
    assert meter.seconds(2) == before
    rounds.sent([2], 0)
    back(rounds, 2, alone=True)
    rounds.wrote(9 * PLAIN)
    assert meter.seconds(2) > before


def test_of_two_steps_in_one_round_nobody_knows_which_took_it() -> None:
    rounds, meter = known()
    before = meter.turning(2)
    rounds.sent([2, 2], 0)
    back(rounds, 2, alone=True)
    back(rounds, 2)
    rounds.wrote(1.0)
    assert meter.turning(2) == before
    assert meter.crowded == CROWDED
    assert meter.plain == pytest.approx(PLAIN)
