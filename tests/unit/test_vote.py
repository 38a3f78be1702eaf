"""Counting verdicts: one owner one vote, quorum, abstentions, splits, and what bits outweigh."""

from itertools import product

import pytest

from hearthring.verify.verdict import Guilty, Outcome, Strength
from hearthring.verify.vote import Ballot, vote

YES, NO, UNSURE = Outcome.ACCEPTED, Outcome.REJECTED, Outcome.INCONCLUSIVE
BITS, LOOSE = Strength.BITS, Strength.TOLERANCE
ONE, TWO = Guilty("one", 0, 2), Guilty("two", 2, 4)


def ballots(*said: tuple[Outcome, Strength] | Outcome, guilty: tuple[Guilty, ...] = (ONE,)):
    found = []
    for n, what in enumerate(said):
        outcome, strength = what if isinstance(what, tuple) else (what, BITS)
        named = guilty if outcome is NO and strength is BITS else ()
        found.append(Ballot(f"v{n}", f"o{n}", outcome, strength, frozenset(named)))
    return found


@pytest.mark.parametrize("seats", [1, 3, 5])
def test_every_way_of_voting_is_decided_by_more_than_half(seats: int) -> None:
    for said in product([YES, NO], repeat=seats):
        count = vote(ballots(*said), seats)
        assert count.outcome is (YES if said.count(YES) > seats / 2 else NO)
        assert (count.accepting, count.rejecting) == (said.count(YES), said.count(NO))
        assert count.guilty == ((ONE,) if count.outcome is NO else ())
        assert len(count.dissenters) == min(said.count(YES), said.count(NO))
        assert count.strength is BITS


def test_one_lying_verifier_of_three_changes_nothing_and_is_named() -> None:
    count = vote(ballots(NO, YES, YES), 3)
    assert (count.outcome, count.guilty, count.dissenters) == (YES, (), ("v0",))
    count = vote(ballots(NO, YES, NO), 3)
    assert (count.outcome, count.guilty, count.dissenters) == (NO, (ONE,), ("v1",))


def test_an_owner_votes_once() -> None:
    same = [Ballot(f"v{n}", "one owner", NO, BITS, frozenset({ONE})) for n in range(5)]
    count = vote([*same, Ballot("w", "other", YES, BITS)], 3)
    assert (count.outcome, count.accepting, count.rejecting, count.wanted) == (None, 1, 1, 1)
    twice = [Ballot("v", "a", NO, BITS), Ballot("v", "b", NO, BITS)]
    assert vote(twice, 3).rejecting == 1


def test_who_abstains_takes_no_seat() -> None:
    count = vote(ballots(UNSURE, YES, UNSURE), 3)
    assert (count.outcome, count.abstaining, count.wanted) == (None, 2, 2)
    assert vote(ballots(UNSURE, YES, UNSURE, YES, NO), 3).outcome is YES
    assert vote([], 3).wanted == 3


def test_the_guilty_are_those_whom_most_name() -> None:
    count = vote(
        [
            Ballot("a", "a", NO, BITS, frozenset({ONE, TWO})),
            Ballot("b", "b", NO, BITS, frozenset({TWO})),
            Ballot("c", "c", NO, BITS, frozenset({ONE, TWO})),
        ],
        3,
    )
    assert (count.guilty, count.dissenters) == ((ONE, TWO), ())
    each = [Ballot(v, v, NO, BITS, frozenset({Guilty(v, 0, 1)})) for v in "abc"]
    count = vote(each, 3)
    assert (count.outcome, count.guilty, count.dissenters) == (NO, (), ())
    slander = Ballot("d", "d", NO, BITS, frozenset({TWO}))
    count = vote([*ballots(NO, NO), slander], 3)
    assert (count.guilty, count.dissenters) == ((ONE,), ("d",))


def test_a_difference_in_bits_keeps_tolerances_from_accepting() -> None:
    """The 8-bit model in place of the 4-bit one: only who compares bits can see it."""
    split = ballots((NO, BITS), (YES, LOOSE), (YES, LOOSE))
    assert (vote(split, 3).outcome, vote(split, 3).wanted) == (None, 2)
    more = ballots((NO, BITS), (YES, LOOSE), (YES, LOOSE), (NO, BITS), (NO, BITS))
    count = vote(more, 5)
    assert (count.outcome, count.guilty, count.dissenters) == (NO, (ONE,), ())
    # A lone liar who claims to have compared bits is outvoted by others who did.
    more = ballots((NO, BITS), (YES, LOOSE), (YES, BITS), (YES, BITS), (YES, BITS))
    assert (vote(more, 5).outcome, vote(more, 5).dissenters) == (YES, ("v0",))


def test_strength_is_what_most_seats_have_at_least() -> None:
    assert vote(ballots((YES, BITS), (YES, LOOSE), (YES, LOOSE)), 3).strength is LOOSE
    assert vote(ballots((YES, BITS), (YES, BITS), (YES, LOOSE)), 3).strength is BITS
    none = Strength.NONE
    assert vote(ballots((NO, none), (NO, none), (NO, BITS)), 3).strength is none


def test_ballots_beyond_the_seats_do_not_count() -> None:
    assert vote(ballots(YES, YES, NO, NO, NO), 3).outcome is YES
