"""Drafts and paces for tests: some know the answer and lie now and then, all by a seed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hearthring.client.cost import Ring
from hearthring.client.draft import Candidate
from hearthring.client.pace import Place, Trip
from hearthring.protocol.tensors import F32


@dataclass
class Knowing:
    """Proposes a tree in which, at every depth, the true token is likely to be.

    ``truth`` is the whole text, prompt first. ``wide``: most siblings; ``hit``: how often the true
    token is among them.
    """

    truth: Sequence[int]
    seed: int
    hit: float = 0.7
    wide: int = 3
    vocabulary: int = 300
    name: str = "knowing"
    seen: list[int] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def observe(self, tokens: Sequence[int]) -> None:
        self.seen.extend(tokens)

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        draw, found = self._random, list[Candidate]()
        under, at = -1, len(self.seen) + len(tail)
        while len(found) < most and at < len(self.truth):
            count = int(draw.integers(min(1, self.wide), self.wide + 1))
            tokens = {int(token) for token in draw.integers(3, self.vocabulary, count)}
            if draw.random() < self.hit:
                tokens.add(self.truth[at])
            if not tokens:
                break
            first, left = len(found), most - len(found)
            found += [Candidate(t, under, float(draw.random())) for t in sorted(tokens)[:left]]
            places = range(first, len(found))
            right = [place for place in places if found[place].token == self.truth[at]]
            # Mostly on along the true path, sometimes along a false one.
            under = right[0] if right and draw.random() < 0.9 else int(draw.choice(places))
            at += 1
        return found

    def forget(self) -> None:
        self.seen.clear()

    def close(self) -> None:
        self.closed = True


@dataclass
class Whim:
    """A pace without reason: any part of a proposal, any number of steps at once."""

    seed: int
    rows: int = 6
    deep: int = 5

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def expect(self, ring: Ring) -> None:
        pass

    def ask(self, place: Place) -> int:
        if place.flying >= self._random.integers(1, self.deep + 1):
            return 0
        return int(self._random.integers(0, self.rows + 1))

    def keep(self, place: Place, candidates: Sequence[Candidate]) -> list[int]:
        return [index for index in range(len(candidates)) if self._random.random() < 0.9]

    def drafted(self, candidates: int, seconds: float) -> None:
        pass

    def sent(self, steps: Sequence[int], flying: int) -> None:
        pass

    def back(self, trip: Trip) -> None:
        pass

    def judged(self, taken: Sequence[bool]) -> None:
        pass

    def wrote(self, tokens: int, seconds: float) -> None:
        pass


class Bigrams:
    """A text of which a draft heeds the last token only; ``scores`` are a square."""

    name = "bigrams"

    def __init__(self, scores: F32) -> None:
        self._scores, self.tokens = scores, list[int]()

    def begin(self, prompt: Sequence[int]) -> None:
        self.tokens = list(prompt)

    def append(self, tokens: Sequence[int]) -> None:
        self.tokens += tokens

    def catch_up(self) -> bool:
        return True

    def logits(self, paths: Sequence[tuple[int, ...]]) -> list[F32]:
        return [self._scores[(*self.tokens, *path)[-1]] for path in paths]

    def close(self) -> None:
        pass
