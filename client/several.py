"""Several drafts as one: each is scored on every text, and the best one guesses.

What the ring has chosen shows how every draft would have fared, also those that weren't asked, at
no cost to the ring; so nothing has to be tried out (Liu et al., "Not-a-Bandit", ICLR 2026).
"""

from collections.abc import Sequence

from hearthring.client.bandits import Hedge
from hearthring.client.draft import Candidate, Draft, ReadingDraft

AHEAD = 4
"""Tokens ahead that count in a score."""
LATE = 0.5
"""The score of a slow draft before it has guessed."""
MEMORY = 64.0
"""Scores after which older ones fade: a text may change its nature."""


class SeveralDrafts:
    """Drafts in the order of preference while nothing is known. Owns them.

    Every ``observe`` asks the cheap ones what they would have said. One that takes time, a
    ``ReadingDraft``, is scored by what it has said when it guessed, and counts as it did of late in
    between: for those alone information is full.
    """

    def __init__(self, drafts: Sequence[Draft]) -> None:
        self._drafts = tuple(drafts)
        self.name = "+".join(draft.name for draft in drafts)
        self._begun = False
        self._hedge = Hedge(len(self._drafts), MEMORY)
        self._slow = [isinstance(draft, ReadingDraft) for draft in self._drafts]
        self._of_late = [LATE] * len(self._drafts)
        self._said: dict[int, list[Candidate]] = {}

    def observe(self, tokens: Sequence[int]) -> None:
        if self._begun and tokens:
            for place, draft in enumerate(self._drafts):
                if self._slow[place] and place not in self._said:
                    continue
                said = self._said[place] if self._slow[place] else draft.propose((), AHEAD)
                score = right(said, tokens)
                late = self._of_late[place]
                self._of_late[place] = late + (score - late) / 8 if self._slow[place] else score
            self._hedge.reward(self._of_late)
            self._said.clear()
        self._begun = True
        for draft in self._drafts:
            draft.observe(tokens)

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        """The best draft's guesses; the next one's if nothing comes to its mind."""
        weights = self._hedge.weights()
        for place in sorted(range(len(weights)), key=lambda place: -weights[place]):
            if proposal := self._drafts[place].propose(tail, most):
                if not tail:
                    self._said[place] = proposal
                return proposal
        return []

    def forget(self) -> None:
        self._begun = False
        self._hedge = Hedge(len(self._drafts), MEMORY)
        self._of_late = [LATE] * len(self._drafts)
        self._said.clear()
        for draft in self._drafts:
            draft.forget()

    def close(self) -> None:
        for draft in self._drafts:
            draft.close()


def right(proposal: Sequence[Candidate], tokens: Sequence[int]) -> float:
    """How much of the next ``AHEAD`` tokens, as far as they are known, a proposal has, 0 to 1."""
    at, hits, known = -1, 0, tokens[:AHEAD]
    for token in known:
        below = (
            index
            for index, candidate in enumerate(proposal)
            if candidate.parent == at and candidate.token == token
        )
        found = next(below, None)
        if found is None:
            break
        at, hits = found, hits + 1
    return hits / len(known) if known else 0.0
