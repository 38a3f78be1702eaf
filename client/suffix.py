"""The suffix draft: what followed the last time that the text read as it ends now.

A suffix automaton (Blumer et al., 1985) over prompt and output, grown token by token, holds every
run of tokens that has occurred. Its guess is what followed the latest earlier occurrence of the
longest repeated ending, as in SAM-Decoding (arXiv 2411.10666). Constant time per token on average.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from hearthring.client.draft import Candidate
from hearthring.client.trees import Guess, grow

NESTED = 64
"""Repeated endings, longest first, whose latest place is kept up to date with every token.

A text that repeats itself over and over has as many as it has tokens. Of those beyond, an earlier
place is remembered than the latest.
"""
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 32)
"""Matches up to these lengths are of one class; longer ones are the last."""
GUESSES = (0.05, 0.08, 0.2, 0.35, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
"""How likely a continuation is at first, by the class of its match's length."""
GUESS_WEIGHT, FADE = 3.0, 0.98
"""What the first guess counts for in trials, and what a trial counts after the next one."""

LEAST = 0.02
"""Chance of the text's getting to a candidate of a tree, below which it isn't proposed."""


class SuffixAutomaton:
    """All substrings of a growing text, and where each ended last."""

    def __init__(self) -> None:
        self.text: list[int] = []
        self._next: list[dict[int, int]] = [{}]
        self._link, self._length, self._end = [-1], [0], [-1]
        self._earlier = [-1]  # for endings of the text: where they ended before
        self._last = 0

    def append(self, token: int) -> None:
        """Extend the text."""
        self.text.append(token)
        new = self._state(len(self.text), {}, 0, len(self.text) - 1)
        at = self._last
        while at >= 0 and token not in self._next[at]:
            self._next[at][token] = new
            at = self._link[at]
        if at >= 0:
            target = self._next[at][token]
            if self._length[target] > self._length[at] + 1:
                target = self._split(at, token, target)
            self._link[new] = target
        else:
            self._link[new] = 0
        self._last = new
        for state in self._chain():
            self._earlier[state], self._end[state] = self._end[state], len(self.text) - 1

    def match(self, tail: Sequence[int] = ()) -> tuple[int, int]:
        """The longest ending of text and tail that occurs in the text before its end.

        Returns its length, and where in the text its latest such occurrence ends (the index of its
        last token). Length 0, and -1: no token of it ever occurred.
        """
        return next(iter(self.matches(tail)), (0, -1))

    def matches(self, tail: Sequence[int] = ()) -> Iterator[tuple[int, int]]:
        """As ``match``, and then ever shorter endings, each of which occurs in more places."""
        state = max(self._link[self._last], 0)
        length = self._length[state]
        for token in tail:
            while state > 0 and token not in self._next[state]:
                state = self._link[state]
                length = self._length[state]
            if token in self._next[state]:
                state, length = self._next[state][token], length + 1
        while state > 0:
            yield length, self._end[state] if tail else self._earlier[state]
            state = self._link[state]
            length = self._length[state]

    def _chain(self) -> list[int]:
        """The states of the text's endings, longest first; at most ``NESTED``."""
        chain, at = list[int](), self._last
        while at > 0 and len(chain) < NESTED:
            chain.append(at)
            at = self._link[at]
        return chain

    def _state(self, length: int, edges: dict[int, int], link: int, end: int) -> int:
        self._length.append(length)
        self._next.append(edges)
        self._link.append(link)
        self._end.append(end)
        self._earlier.append(end)
        return len(self._length) - 1

    def _split(self, at: int, token: int, target: int) -> int:
        """Part of a state's strings, the short ones, now occur where its long ones don't."""
        short = self._state(
            self._length[at] + 1, dict(self._next[target]), self._link[target], self._end[target]
        )
        while at >= 0 and self._next[at].get(token) == target:
            self._next[at][token] = short
            at = self._link[at]
        self._link[target] = short
        return short


class SuffixDraft:
    """A chain copied from the latest place where the text read alike; with ``wide`` above 1 a
    tree, in which up to so many siblings go on from places where less of it did.

    ``chance`` follows what has come true so far in this text, by the length of the match: every
    observed token is a trial of the guess that would have been made for it.
    """

    name = "suffix"

    def __init__(self, wide: int = 1) -> None:
        self._wide = wide
        self.forget()

    def forget(self) -> None:
        """A new text begins."""
        self._seen = SuffixAutomaton()
        self._hits = [guess * GUESS_WEIGHT for guess in GUESSES]
        self._trials = [GUESS_WEIGHT for _ in GUESSES]

    def observe(self, tokens: Sequence[int]) -> None:
        """Learn tokens, and from them how good the guesses are."""
        for token in tokens:
            length, end = self._seen.match()
            if length:
                place = bisect_left(LENGTHS, length)
                hit = self._seen.text[end + 1] == token
                self._hits[place] = self._hits[place] * FADE + hit
                self._trials[place] = self._trials[place] * FADE + 1
            self._seen.append(token)

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        """A chain; what it copies may overlap what it writes, so a period goes on."""
        if self._wide > 1:
            return grow(lambda path: self._guesses((*tail, *path)), most, LEAST)
        length, end = self._seen.match(tail)
        if not length:
            return []
        text, written = self._seen.text, list(tail)
        chain = list[Candidate]()
        for i in range(most):
            at = end + 1 + i
            token = text[at] if at < len(text) else written[at - len(text)]
            place = bisect_left(LENGTHS, length + i)
            chain.append(Candidate(token, i - 1, self._hits[place] / self._trials[place]))
            written.append(token)
        return chain

    def _guesses(self, tail: tuple[int, ...]) -> list[Guess]:
        """What followed the longest match, and what followed shorter ones in its stead."""
        text, left, found = self._seen.text, 1.0, dict[int, float]()
        for length, end in self._seen.matches(tail):
            token = text[end + 1] if end + 1 < len(text) else tail[end + 1 - len(text)]
            if token not in found:
                place = bisect_left(LENGTHS, length)
                chance = left * self._hits[place] / self._trials[place]
                found[token], left = chance, left - chance
            if len(found) == self._wide:
                break
        return sorted(found.items(), key=lambda guess: -guess[1])

    def close(self) -> None:
        """Nothing to give up."""
