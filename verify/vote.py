"""Verdicts of several verifiers into one: a pure function, the same for everyone who has them.

One owner has one vote. Who can't say abstains, and somebody else is drawn. A verdict stands when
more than half of the seats agree; who is guilty is decided stage by stage, by more than half as
well. Equal bits are facts, tolerances are estimates: where verifiers who compared bits fill more
than half of the seats, they alone decide, and a lone one who found a difference keeps others from
accepting.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hearthring.verify.verdict import Guilty, Outcome, Strength

MOST_SEATS = 9
"""Seats at most: a swarm that is still split then stays so."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """One verifier's verdict, its signature checked, its owner known."""

    verifier: str
    owner: str
    outcome: Outcome
    strength: Strength = Strength.NONE
    guilty: frozenset[Guilty] = frozenset()


@dataclass(frozen=True, slots=True)
class Count:
    """``outcome`` None: not decided yet, and ``wanted`` more ballots may decide it.

    ``dissenters`` said the opposite of what was decided, or blamed others, though they too compared
    bits: one side of those can only be lying or broken.
    """

    outcome: Outcome | None
    guilty: tuple[Guilty, ...] = ()
    strength: Strength = Strength.NONE
    accepting: int = 0
    rejecting: int = 0
    abstaining: int = 0
    seated: int = 0
    wanted: int = 0
    dissenters: tuple[str, ...] = ()


def vote(ballots: Sequence[Ballot], seats: int) -> Count:
    """Count ballots, in the order drawn, for so many seats (an odd number, at least 1).

    Of one owner only the first ballot counts. Ballots beyond the seats don't count. An undecided
    count asks for as many more as seats are empty, or for two more seats after a split.
    """
    cast, abstaining = _cast(ballots, seats)
    quorum = seats // 2 + 1
    bits = [b for b in cast if b.strength is Strength.BITS]
    deciding = bits if len(bits) >= quorum else cast
    said = Counter(ballot.outcome for ballot in deciding)
    accepting, rejecting = said[Outcome.ACCEPTED], said[Outcome.REJECTED]
    refuted = any(ballot.outcome is Outcome.REJECTED for ballot in bits)
    outcome: Outcome | None = None
    if rejecting >= quorum:
        outcome = Outcome.REJECTED
    elif accepting >= quorum and (deciding is bits or not refuted):
        outcome = Outcome.ACCEPTED
    agreeing = [ballot for ballot in deciding if ballot.outcome is outcome]
    guilty = _guilty(agreeing, quorum) if outcome is Outcome.REJECTED else ()
    return Count(
        outcome,
        guilty,
        _strength(agreeing, quorum),
        accepting,
        rejecting,
        abstaining,
        len(cast),
        0 if outcome else (seats - len(cast) or 2),
        _dissenters(bits, outcome, guilty) if deciding is bits else (),
    )


def _cast(ballots: Sequence[Ballot], seats: int) -> tuple[list[Ballot], int]:
    cast, heard, abstaining = list[Ballot](), set[str](), 0
    for ballot in ballots:
        if ballot.owner in heard or ballot.verifier in heard:
            continue
        heard |= {ballot.owner, ballot.verifier}
        if ballot.outcome is Outcome.INCONCLUSIVE:
            abstaining += 1
        elif len(cast) < seats:
            cast.append(ballot)
    return cast, abstaining


def _guilty(agreeing: Iterable[Ballot], quorum: int) -> tuple[Guilty, ...]:
    named = Counter(guilty for ballot in agreeing for guilty in ballot.guilty)
    sure = [guilty for guilty, votes in named.items() if votes >= quorum]
    return tuple(sorted(sure, key=lambda guilty: (guilty.start, guilty.node)))


def _strength(agreeing: Sequence[Ballot], quorum: int) -> Strength:
    """The strength that a majority of the seats has at least."""
    named = Counter(ballot.strength for ballot in agreeing)
    if named[Strength.BITS] >= quorum:
        return Strength.BITS
    if named[Strength.BITS] + named[Strength.TOLERANCE] >= quorum:
        return Strength.TOLERANCE
    return Strength.NONE


def _dissenters(
    bits: Iterable[Ballot], outcome: Outcome | None, guilty: tuple[Guilty, ...]
) -> tuple[str, ...]:
    """Who said the opposite, or blamed others than the majority did."""
    if outcome is None:
        return ()
    return tuple(
        ballot.verifier
        for ballot in bits
        if ballot.outcome is not outcome or (guilty and not ballot.guilty <= frozenset(guilty))
    )
