"""A text in the target's tokens, read and gone on with by a model of another vocabulary: SLRS.

How likely the target's next token is, is what the model may write next, cut into the target's
tokens: all of that, each with its chance, and the first token of each counts (``vocabularies
.first_token_chances``). It holds for any two vocabularies, but takes a pass for each beginning of
what may be written, so it is for vocabularies of a few letters.
"""

from collections.abc import Sequence

import numpy as np

from hearthring.client.local_text import SPARE, LocalText
from hearthring.client.philox import F64
from hearthring.client.shared_text import SharedText
from hearthring.client.vocabularies import (
    Shared,
    first_token_chances,
    retokenise,
    whole_characters,
)
from hearthring.protocol.errors import BadOption
from hearthring.protocol.tensors import F32
from hearthring.shards.tokenizer import Tokenizer

PASSES = SPARE - 32
"""Most passes for a token: they share the slots that a text has for guesses."""


class WrittenText(SharedText):
    """As ``SharedText``, but for its logits: logarithms of the chances of the target's tokens.

    Raises ``BadOption`` for a model that would take more than ``PASSES`` passes for a token, or
    that may write what the target's tokens can't spell.
    """

    def __init__(self, text: LocalText, ours: Tokenizer) -> None:
        theirs, name = text.model.tokenizer, text.model.name
        pieces = {token: theirs.token_bytes(token) for token in range(theirs.vocabulary)}
        self._words = {token: piece.decode(errors="replace") for token, piece in pieces.items()}
        self._words = {token: words for token, words in self._words.items() if words}
        longest = (whole_characters(ours.token_bytes(t))[0] for t in range(ours.vocabulary))
        self._length = max(1, *map(len, longest))
        if self._beginnings(len(self._words), self._length) > PASSES:
            raise BadOption(
                f"{name} has {len(self._words)} tokens, and the target's have up to "
                f"{self._length} characters: judging by all that may be written takes vocabularies "
                "of a few letters",
                field="draft",
                mend="use tli: or model: instead",
            )
        if strange := [words for words in self._words.values() if not retokenise(ours, "", words)]:
            raise BadOption(f"the target can't spell {strange[0]!r} of {name}", field="draft")
        super().__init__(text, Shared.of(ours, theirs), ours)
        self.name = f"slrs:{name}"

    def logits(self, paths: Sequence[tuple[int, ...]]) -> list[F32]:
        """Logits after the text and each path; -inf for what is never written."""
        with np.errstate(divide="ignore"):
            return [np.log(self._chances(path)).astype(np.float32) for path in paths]

    def _chances(self, path: tuple[int, ...]) -> F64:
        above, known = tuple(self._said(path)), dict[tuple[int, ...], F64]()
        level: dict[tuple[int, ...], int] = {(): 0}
        while level:
            asked = [(*above, *written) for written in level]
            for written, logits in zip(level, self._text.logits(asked), strict=True):
                known[written] = self._softmax(logits)
            level = {
                (*written, token): size + len(words)
                for written, size in level.items()
                for token, words in self._words.items()
                if size + len(words) < self._length
            }
        return first_token_chances(
            known.__getitem__, self._words.__getitem__, self._cut, self._length, self._shared.size
        )

    def _softmax(self, logits: F32) -> F64:
        """Of tokens that spell something, as the others aren't written."""
        kept = list(self._words)
        shares, scores = np.zeros(len(logits)), logits[kept].astype(np.float64)
        weights = np.exp(scores - scores.max())
        shares[kept] = weights / weights.sum()
        return shares

    def _cut(self, words: str) -> list[int]:
        return retokenise(self._ours, "", words)

    @staticmethod
    def _beginnings(tokens: int, length: int) -> int:
        """Most texts that are shorter than ``length``, of so many tokens."""
        return sum(tokens**written for written in range(length))
