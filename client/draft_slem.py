"""A model of another vocabulary as a draft, through text: SLEM (``client/vocabularies.py``).

It reads the text in its own tokens and goes on with it; what it wrote is cut into the target's
tokens. Where both cut differently there is nothing to translate, so any two vocabularies will do.
"""

from collections.abc import Sequence

from hearthring.client.draft import Candidate
from hearthring.client.local_text import LocalText
from hearthring.client.pace import Explain
from hearthring.client.sampler import Sampling, leaders
from hearthring.client.shared_text import opening
from hearthring.client.vocabularies import retokenise, whole_characters
from hearthring.protocol.errors import EngineError, NonFinite
from hearthring.shards.tokenizer import Tokenizer

LEAST = 0.02
"""Chance of the text's getting to a token, below which none is worth a pass."""
NEAR = 64
"""Characters before a guess that may matter for how it is cut."""
SEAM = 8
"""Tokens at the end of a text that are cut anew when it goes on."""


class RetoldDraft:
    """Chains of the likeliest tokens of a local model, retold in the vocabulary of ``ours``.

    The last token is held back unless the model ended the text there: it might go on within it.
    A text that ends within a character isn't guessed at, nor one beyond the model's context.
    """

    def __init__(
        self,
        text: LocalText,
        ours: Tokenizer,
        least: float = LEAST,
        explain: Explain | None = None,
    ) -> None:
        self.name = f"slem:{text.model.name}"
        self._text, self._ours, self._theirs = text, ours, text.model.tokenizer
        self._least, self._explain = least, explain
        self.forget()

    def forget(self) -> None:
        """A new text begins."""
        self._fresh, self._over = True, False
        self._written = b""
        self._said = list[int]()

    def observe(self, tokens: Sequence[int]) -> None:
        """The text goes on."""
        self._written += self._spelt(tokens)

    def read(self, prompt: Sequence[int]) -> bool:
        """Read some of a text that will be observed, as ``draft.ReadingDraft``."""
        text, _ = whole_characters(self._spelt(prompt))
        try:
            self._read(text)
            done = self._over or self._text.catch_up()
            if done and not self._over:
                self._write(1)  # an engine's first passes take longest
        except (EngineError, NonFinite) as error:
            self._stop(error)
            return True
        return done

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        """A chain. Takes a pass for every token of the model, and reads in pieces."""
        before, rest = whole_characters(self._written + self._spelt(tail))
        if self._over or rest:
            return []
        try:
            self._read(before)
            if not self._text.catch_up():
                return []
            words, spans, ended = self._write(most)
        except (EngineError, NonFinite) as error:
            self._stop(error)
            return []
        return self._retold(before, words, spans, ended)[:most]

    def close(self) -> None:
        """The text's cache goes; the model stays with the client."""
        self._over = True
        self._text.close()

    def _stop(self, error: EngineError | NonFinite) -> None:
        self._over = True
        if self._explain is not None:
            self._explain(f"no more guesses of {self._text.name}: {error.message}")

    def _spelt(self, tokens: Sequence[int]) -> bytes:
        return b"".join(map(self._ours.token_bytes, tokens))

    def _read(self, text: str) -> None:
        """Tell the model the text, of which all but the end is cut as it was."""
        kept = self._said[: -SEAM or None]
        stem = self._theirs.decode(kept[1:])
        if self._fresh or not kept or not text.startswith(stem):
            kept, stem = opening(self._theirs), ""
        last = stem[-1:]
        self._said = [*kept, *retokenise(self._theirs, last, text[len(stem) :])]
        if self._fresh:
            self._text.begin(self._said)
        else:
            self._text.become(self._said)
        self._fresh = False

    def _write(self, most: int) -> tuple[bytes, list[tuple[int, float]], bool]:
        """What the model would write: bytes, where in them each of its tokens ends, with the chance
        that it gave it, and whether it ended the text there."""
        path: tuple[int, ...] = ()
        words, spans, reached = b"", list[tuple[int, float]](), 1.0
        while len(spans) <= most and reached >= self._least:
            logits = self._text.logits([path])[0]
            token, chance = leaders(logits, (), 0, Sampling(), 1)[0]
            piece = self._theirs.token_bytes(token)
            if not piece:
                return words, spans, True
            path, words, reached = (*path, token), words + piece, reached * chance
            spans.append((len(words), chance))
        return words, spans, False

    def _retold(
        self, before: str, written: bytes, spans: Sequence[tuple[int, float]], ended: bool
    ) -> list[Candidate]:
        """The target's tokens. Each has the chance of the model's tokens that end within it."""
        words, rest = whole_characters(written)
        words, broken, _ = words.partition("\ufffd")  # bytes that are no text can't be retold
        tokens = retokenise(self._ours, before[-NEAR:], words)
        if tokens and not ended and not rest and not broken:
            tokens.pop()
        chain, begin = list[Candidate](), 0
        for place, token in enumerate(tokens):
            end, chance = begin + len(self._ours.token_bytes(token)), 1.0
            for at, given in spans:
                if begin < at <= end:
                    chance *= given
            chain.append(Candidate(token, place - 1, chance))
            begin = end
        return chain
