"""What guessing may lose before it rests, and when it is tried again."""

import pytest

from hearthring.client.credit import AGAIN, ALLOWED, FIRST, MOST, TRUST, TRUSTED, Credit


def test_a_loss_beyond_what_is_allowed_makes_it_rest() -> None:
    credit = Credit()
    credit.brought(1, 1 + FIRST / 2)
    assert not credit.settle()
    credit.brought(1, 1 + FIRST)
    assert credit.settle()


def test_it_rests_until_it_may_lose_what_a_try_costs() -> None:
    for again, least in ((0.0, AGAIN), (3.0, 3.0), (100.0, MOST)):
        credit = Credit(left=-FIRST)
        assert credit.settle()
        tokens = 0
        while credit.settle(again):
            credit.chose(1)
            tokens += 1
        assert tokens == pytest.approx((FIRST + least) / ALLOWED, abs=2)


def test_gains_count_up_to_a_bound() -> None:
    credit = Credit()
    credit.brought(100, 1)
    credit.chose(1000)
    assert credit.left == MOST
    credit.brought(0, MOST + 0.1)
    assert credit.settle()


def test_no_loss_is_remembered_for_ever() -> None:
    credit = Credit()
    credit.brought(1, 1000)
    assert credit.left == -FIRST


def test_luck_alone_never_ends_it() -> None:
    credit = Credit()
    for _ in range(100):
        credit.brought(0, credit.stake)
        assert not credit.settle()
    assert credit.left < FIRST / 100


def test_what_is_only_expected_counts_little_and_within_a_bound() -> None:
    credit = Credit(left=0.0)
    credit.vouch(1.0)
    assert credit.left == pytest.approx(TRUST)
    for _ in range(100):
        credit.vouch(1.0)
    assert credit.left == pytest.approx(TRUSTED)
