"""What a draft would have saved on texts that are known: tokens a trip, without a ring."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hearthring.client.corpus import Sample
from hearthring.client.draft import Draft
from hearthring.client.sampler import Sampling

AHEAD = 4
"""Tokens that are guessed in a trip."""


@dataclass(frozen=True, slots=True)
class Rate:
    """``tokens`` in ``trips`` round a ring, and what came of guesses."""

    tokens: int = 0
    trips: int = 0
    guesses: int = 0
    hits: int = 0

    @property
    def per_trip(self) -> float:
        """Tokens a trip, at least 1; what the guesses got right and one more."""
        return self.tokens / self.trips if self.trips else 1.0

    def __add__(self, other: "Rate") -> "Rate":
        """Of both."""
        return Rate(
            self.tokens + other.tokens,
            self.trips + other.trips,
            self.guesses + other.guesses,
            self.hits + other.hits,
        )


def replay(draft: Draft, prompt: Sequence[int], answer: Sequence[int], ahead: int = AHEAD) -> Rate:
    """What chains of ``ahead`` guesses would have got right of an answer, from its first token on.

    The prompt's trip isn't counted. Drafts that read a long prompt in pieces are waited for.
    """
    draft.forget()
    draft.observe(prompt)
    for _ in range(len(prompt)):
        if draft.propose((), 1):
            break
    trips = guesses = hits = at = 0
    while at < len(answer):
        chain = draft.propose((), ahead)
        right = 0
        for place, guess in enumerate(chain):
            known = at + place < len(answer) and guess.parent == place - 1
            if not known or guess.token != answer[at + place]:
                break
            right += 1
        step = min(right + 1, len(answer) - at)
        draft.observe(answer[at : at + step])
        at, trips = at + step, trips + 1
        guesses, hits = guesses + len(chain), hits + right
    return Rate(len(answer), trips, guesses, hits)


def held_out_rates(
    make: Callable[[Sampling], Draft], samples: Iterable[Sample], ahead: int = AHEAD
) -> dict[float, Rate]:
    """By temperature: what a draft saves on samples that were held out.

    ``make`` is told how each was sampled, seed included, so that a draft may share its noise.
    """
    found: dict[float, Rate] = {}
    for one in samples:
        seed = one.seed if one.temperature else None
        draft = make(Sampling(temperature=one.temperature, seed=seed))
        try:
            ids = one.ids.tolist()
            rate = replay(draft, ids[: one.prompt], ids[one.prompt :], ahead)
        finally:
            draft.close()
        found[one.temperature] = found.get(one.temperature, Rate()) + rate
    return found
