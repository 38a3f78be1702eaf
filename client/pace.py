"""How far to guess ahead: what of a draft's proposal is sent, and how many steps may fly at once.

A pace decides about speed alone; no decision can change an answer.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from hearthring.client.cost import Ring
from hearthring.client.draft import Candidate
from hearthring.client.flight import Result

Explain = Callable[[str], None]
"""Is told decisions, in words."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a proposal would go.

    ``flying`` steps are under way that may still count; ``chance`` is the draft's own guess that
    the text gets to where the proposal begins; ``room`` is the most rows that may be sent.
    """

    flying: int
    chance: float
    room: int


@dataclass(frozen=True, slots=True)
class Trip:
    """A step that is back, ``seconds`` after it was sent; ``alone``: nothing else flew then."""

    result: Result
    seconds: float
    alone: bool


class Pace(Protocol):
    """Decides for one generation."""

    def expect(self, ring: Ring) -> None:
        """Before the first step: what the ring should take, by what is known of it."""

    def ask(self, place: Place) -> int:
        """How many candidates to ask the draft for; 0: don't ask."""

    def keep(self, place: Place, candidates: Sequence[Candidate]) -> Collection[int]:
        """What of a proposal to send, by index; one whose parent isn't kept is left out, too.

        At ``place.flying`` 0 a row is sent in any case, with what is kept beneath it.
        """

    def drafted(self, candidates: int, seconds: float) -> None:
        """Looking for candidates took so long, while nothing was under way; so many came."""

    def sent(self, steps: Sequence[int], flying: int) -> None:
        """Steps of so many rows go out, while ``flying`` others are under way, if only just."""

    def back(self, trip: Trip) -> None:
        """A step is back."""

    def judged(self, taken: Sequence[bool]) -> None:
        """A token was chosen where these siblings were guessed, likeliest first: which it is."""

    def wrote(self, tokens: int, seconds: float) -> None:
        """So many tokens were chosen at once, so long after the ones before."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same always: ``rows`` candidates a step, ``deep`` steps at once; (0, 1) is plain."""

    rows: int = 0
    deep: int = 1

    def expect(self, ring: Ring) -> None:
        """Nothing follows from it."""

    def ask(self, place: Place) -> int:
        """As many as a step takes."""
        return min(self.rows, place.room) if place.flying < self.deep else 0

    def keep(self, place: Place, candidates: Sequence[Candidate]) -> Collection[int]:
        """All of them."""
        return range(len(candidates))

    def drafted(self, candidates: int, seconds: float) -> None:
        """Nothing follows from it."""

    def sent(self, steps: Sequence[int], flying: int) -> None:
        """Nothing follows from it."""

    def back(self, trip: Trip) -> None:
        """Nothing follows from it."""

    def judged(self, taken: Sequence[bool]) -> None:
        """Nothing follows from it."""

    def wrote(self, tokens: int, seconds: float) -> None:
        """Nothing follows from it."""


def subtree(candidates: Sequence[Candidate], wanted: Collection[int]) -> list[Candidate]:
    """The wanted candidates whose ancestors all are, with their parents' new places."""
    places, kept = dict[int, int](), list[Candidate]()
    for index, candidate in enumerate(candidates):
        if index in wanted and (candidate.parent < 0 or candidate.parent in places):
            places[index] = len(kept)
            parent = places.get(candidate.parent, -1)
            kept.append(Candidate(candidate.token, parent, candidate.chance))
    return kept
