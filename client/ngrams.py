"""The ngrams draft: what followed in earlier texts, wherever they read as this one ends now.

An array of all places in these texts, sorted by what stands before each, the nearest token first
(a suffix array of the reversed texts), finds the places that share the longest ending by bisection.
What followed there, counted, is the guess, as in SuffixDecoding (arXiv 2411.04975).
"""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hearthring.client.draft import Candidate, Setting
from hearthring.client.remembered import Remembered, Tokens, open_remembered
from hearthring.client.trees import Guess, grow
from hearthring.protocol.errors import BadMemory

DEPTH = 12
"""Tokens of an ending that are compared."""
PLACES = 512
"""Places looked at; of more, as many are taken evenly from all."""
LEARNT = 256
"""Tokens of what is observed at once from which the draft learns how good it is, the last ones."""
FRESH = 1 << 15
"""Tokens in texts that came lately; with more, the large index is made anew."""
LENGTHS = (1, 2, 3, 4, 6, 9)
"""Endings up to these lengths are of one class; longer ones are the last."""
RELIABLE = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""What counts are worth at first, by the class: hits of what they promise."""
WEIGHT, FADE = 4.0, 0.98
"""What that counts for in trials, and what a trial counts after the next one."""
LEAST = 0.02
"""Chance of the text's getting to a candidate, below which it isn't proposed."""

_BITS = 21
_WORD = 3
"""Tokens, of so many bits, in a key of 64."""


class NgramIndex:
    """Places in texts by what stands before them. Immutable, so any thread may search it.

    Takes about a microsecond and 45 bytes for each token. Tokens are below 2 097 151. ``flat``
    holds all texts with 1 added to each token, a 0 before and behind each.
    """

    def __init__(self, texts: Sequence[Tokens]) -> None:
        parts = [np.zeros(1, np.int64)]
        for text in texts:
            parts += [text.astype(np.int64) + 1, np.zeros(1, np.int64)]
        self.flat: NDArray[np.int64] = np.concatenate(parts)
        places = np.arange(1, len(self.flat))
        keys = [np.zeros(len(places), np.int64) for _ in range(DEPTH // _WORD)]
        inside = np.ones(len(places), bool)
        for back in range(DEPTH):
            before = np.zeros(len(places), np.int64)
            before[back:] = self.flat[: max(0, len(places) - back)]
            inside &= before > 0  # a text begins with nothing before it
            keys[back // _WORD] |= np.where(inside, before, 0) << _shift(back)
        order = np.lexsort(keys[::-1])
        self._keys = [key[order] for key in keys]
        self._places = places[order].astype(np.int32)

    def find(self, text: Sequence[int]) -> tuple[int, NDArray[np.int32]]:
        """How much of the text's end, at most ``DEPTH`` tokens, occurs most; and the places behind
        the longest such ending. Length 0: not even the last token occurs, and there are none.
        """
        low, high, word = 0, len(self._places), 0
        ending = [token + 1 for token in text[: -DEPTH - 1 : -1]]
        for back, token in enumerate(ending):
            if back % _WORD == 0:
                word = 0
            word |= token << _shift(back)
            keys = self._keys[back // _WORD][low:high]
            first, end = np.searchsorted(keys, (word, word + (1 << _shift(back))))
            if first == end:
                return back, self._some(low, high) if back else self._places[:0]
            low, high = low + int(first), low + int(end)
        return len(ending), self._some(low, high) if ending else self._places[:0]

    def _some(self, low: int, high: int) -> NDArray[np.int32]:
        return self._places[low : high : -(-(high - low) // PLACES)]


def _shift(back: int) -> int:
    return _BITS * (_WORD - 1 - back % _WORD)


class NgramStore:
    """Indexes of what is remembered in one vocabulary, kept up with what is added meanwhile.

    ``vocabulary`` is its hash, ``size`` the number of its tokens: texts with others are damaged and
    left out. A large index, and a small one of texts that came since. Not thread-safe. A memory
    that can't be read is empty, and ``trouble`` says why.
    """

    def __init__(self, remembered: Remembered, vocabulary: str, size: int) -> None:
        self._remembered, self._vocabulary, self._size = remembered, vocabulary, size
        self._last, self._new = 0, list[Tokens]()
        self.indexes: tuple[NgramIndex, ...] = ()
        """Those to search, the fresh one first."""
        self.trouble = ""

    def refresh(self) -> None:
        """Read what was added, here or by other programs. Milliseconds, but for the first time and
        once in ``FRESH`` tokens. What was forgotten meanwhile goes with the next large index."""
        try:
            added = self._remembered.after(self._last, self._vocabulary)
            if self._last and sum(map(len, (*self._new, *(t for _, t in added)))) > FRESH:
                self._new, added = [], self._remembered.after(0, self._vocabulary)
                self._last = 0
        except BadMemory as error:
            self.trouble = str(error)
            return
        if not added:
            return
        first, self._last = not self._last, added[-1][0]
        texts = [tokens for _, tokens in added if len(tokens) and tokens.max() < self._size]
        if first:
            self.indexes = (NgramIndex(texts),)
            return
        self._new += texts
        self.indexes = (NgramIndex(self._new), self.indexes[-1])


class NgramDraft:
    """Guesses from remembered texts: a chain, or with ``wide`` above 1 a tree of so many siblings.

    ``chance`` is the share of the places that a token followed at, times what such shares were
    worth so far in this text, by the length of the ending.
    """

    name = "ngrams"

    def __init__(self, store: NgramStore, wide: int = 1) -> None:
        self._store, self._wide = store, wide
        self.forget()

    def forget(self) -> None:
        """A new text begins."""
        self._store.refresh()
        self._end = list[int]()
        self._hits = [share * WEIGHT for share in RELIABLE]
        self._promised = [WEIGHT for _ in RELIABLE]

    def observe(self, tokens: Sequence[int]) -> None:
        """Learn from tokens how good the guesses are."""
        for token in tokens[:-LEARNT]:
            self._end.append(token)
        for token in tokens[-LEARNT:]:
            length, shares = self._followers(self._end)
            if shares:
                place, (likely, share) = bisect_left(LENGTHS, length), shares[0]
                self._hits[place] = self._hits[place] * FADE + (likely == token)
                self._promised[place] = self._promised[place] * FADE + share
            self._end.append(token)
        del self._end[:-DEPTH]

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        """The likeliest continuations. Takes about 0.1 ms a token."""
        return grow(lambda path: self._guesses((*self._end, *tail, *path)), most, LEAST)

    def close(self) -> None:
        """Nothing to give up."""

    def _guesses(self, text: Sequence[int]) -> list[Guess]:
        length, shares = self._followers(text)
        place = bisect_left(LENGTHS, length)
        worth = min(1.0, self._hits[place] / self._promised[place])
        return [(token, share * worth) for token, share in shares[: self._wide]]

    def _followers(self, text: Sequence[int]) -> tuple[int, list[Guess]]:
        """What followed the longest ending that occurs, and its share; equal shares: the latest
        first. A fresh index is asked before an old one that knows no longer ending."""
        found = max(
            ((*index.find(text), index.flat) for index in self._store.indexes),
            key=lambda one: one[0],
            default=None,
        )
        if found is None or not found[0]:
            return 0, []
        length, places, flat = found
        following = flat[places]
        tokens, last, counts = np.unique(following[::-1], return_index=True, return_counts=True)
        order = np.lexsort((last, -counts))
        total = len(places)
        return length, [
            (int(tokens[i]) - 1, float(counts[i]) / total) for i in order if tokens[i] > 0
        ]


def open_ngrams(setting: Setting) -> NgramDraft:
    """The draft from this user's memory, whose index outlives a generation. A memory that can't be
    read guesses nothing, and is spoken of."""
    if "ngrams" not in setting.shared:
        manifest = setting.model.entry.manifest
        remembered = setting.remembered or open_remembered()
        setting.shared["ngrams"] = NgramStore(
            remembered, manifest.tokenizer, manifest.shape.vocabulary
        )
    store: NgramStore = setting.shared["ngrams"]
    draft = NgramDraft(store)
    if store.trouble and setting.explain is not None:
        setting.explain(store.trouble)
    return draft
