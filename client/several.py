"""Several drafts as one: each is scored on every text, and the best one guesses.

What the ring has chosen shows how every draft would have fared, also those that weren't asked, at
no cost to the ring; so nothing has to be tried out (Liu et al., "Not-a-Bandit", ICLR 2026).
"""

import time
from collections.abc import Callable, Sequence

from hearthring.client.asked import Asked
from hearthring.client.bandits import Hedge
from hearthring.client.draft import Candidate, Draft, ReadingDraft
from hearthring.shards.timings import Fit

AHEAD = 4
"""Tokens ahead that count in a score."""
MEMORY = 64.0
"""Scores after which older ones fade: a text may change its nature."""


class SeveralDrafts:
    """Drafts in the order of preference while nothing is known. Owns them.

    Every ``observe`` asks the cheap ones what they would have said. One that takes time, a
    ``ReadingDraft``, is scored by what it has said when it guessed, and asked only where that
    should pay, beside what the cheap ones have to say: for those alone information is full.
    """

    def __init__(
        self, drafts: Sequence[Draft], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._drafts = tuple(drafts)
        self.name = "+".join(draft.name for draft in drafts)
        self._clock = clock
        self._slow = [place for place, one in enumerate(drafts) if isinstance(one, ReadingDraft)]
        self._trip: Fit | None = None
        self._begin()

    def _begin(self) -> None:
        self._begun = False
        self._hedge = Hedge(len(self._drafts), MEMORY)
        self._asked = {place: Asked() for place in self._slow}
        self._said: dict[int, list[Candidate]] = {}

    def forget(self) -> None:
        """A new text begins."""
        self._begin()
        for draft in self._drafts:
            draft.forget()

    def trip(self, trip: Fit) -> None:
        """What a step takes round the ring, by its rows, as ``draft.ThriftyDraft``."""
        self._trip = trip

    def read(self, prompt: Sequence[int]) -> bool:
        """Let those that take time read some of a text, as ``draft.ReadingDraft``."""
        slow = [draft for draft in self._drafts if isinstance(draft, ReadingDraft)]
        return all([draft.read(prompt) for draft in slow])

    def observe(self, tokens: Sequence[int]) -> None:
        """Score what was said of these tokens, or would have been."""
        if self._begun and tokens:
            known = tokens[:AHEAD]
            self._hedge.reward([self._score(at, known) for at in range(len(self._drafts))])
            self._said.clear()
        self._begun = True
        for draft in self._drafts:
            draft.observe(tokens)

    def _score(self, place: int, known: Sequence[int]) -> float:
        """How much of the next tokens a draft has right, or should have, 0 to 1."""
        asked = self._asked.get(place)
        if asked is None:
            return right(self._drafts[place].propose((), AHEAD), known) / len(known)
        if said := self._said.get(place):
            hits = right(said, known)
            asked.judged(hits, hits < min(len(known), depth(said)))
        asked.fade()
        return asked.score(len(known))

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        """The best draft's guesses; the next one's if nothing comes to its mind, or it wouldn't
        pay to ask."""
        weights = self._hedge.weights()
        order = sorted(range(len(weights)), key=lambda place: -weights[place])
        instead, better = list[Candidate](), order
        for rank, place in enumerate(order):
            if place not in self._asked and (found := self._drafts[place].propose(tail, most)):
                instead, better = found, order[:rank]
                break
        for place in better:
            if (asked := self._asked.get(place)) is None:
                continue
            count = asked.worth(self._trip, instead, most, waiting=not tail)
            if count and (found := self._ask(place, tail, count)):
                return found
        return instead

    def _ask(self, place: int, tail: Sequence[int], most: int) -> list[Candidate]:
        begun = self._clock()
        proposal = self._drafts[place].propose(tail, most)
        self._asked[place].took(len(proposal), self._clock() - begun)
        if not tail:
            self._said[place] = proposal
        return proposal

    def close(self) -> None:
        """Give them up. Idempotent."""
        for draft in self._drafts:
            draft.close()


def right(proposal: Sequence[Candidate], tokens: Sequence[int]) -> int:
    """How many of some tokens, from the first on, a proposal has in a row."""
    at = -1
    for hits, token in enumerate(tokens):
        below = (
            index
            for index, candidate in enumerate(proposal)
            if candidate.parent == at and candidate.token == token
        )
        found = next(below, None)
        if found is None:
            return hits
        at = found
    return len(tokens)


def depth(proposal: Sequence[Candidate]) -> int:
    """Tokens of a proposal's longest path."""
    depths = list[int]()
    for candidate in proposal:
        depths.append(1 if candidate.parent < 0 else depths[candidate.parent] + 1)
    return max(depths, default=0)
