"""A text in the target's tokens, read by a local model of another vocabulary: TLI's half.

A token that both have is the same token to both; any other one is spelt with several of the
model's. What the model says is restricted to tokens that both have (``vocabularies.Shared``).
"""

from collections.abc import Iterable, Sequence

from hearthring.client.local_text import LocalText
from hearthring.client.vocabularies import Shared, retokenise, whole_characters
from hearthring.protocol.tensors import F32
from hearthring.shards.tokenizer import Tokenizer


class SharedText:
    """As ``LocalText``, but for its tokens, which are ``ours``. Owns ``text``."""

    def __init__(self, text: LocalText, shared: Shared, ours: Tokenizer) -> None:
        self.name = f"tli:{text.model.name}"
        self._text, self._shared, self._ours = text, shared, ours
        self._theirs = text.model.tokenizer
        self.tokens = list[int]()

    def begin(self, prompt: Sequence[int]) -> None:
        """Another text."""
        self.tokens = list(prompt)
        self._text.begin([*opening(self._theirs), *self._said(prompt)])

    def append(self, tokens: Sequence[int]) -> None:
        """The text goes on."""
        self.tokens += tokens
        self._text.append(self._said(tokens))

    def catch_up(self) -> bool:
        """As ``LocalText.catch_up``."""
        return self._text.catch_up()

    def logits(self, paths: Sequence[tuple[int, ...]]) -> list[F32]:
        """As ``LocalText.logits``: -inf for tokens that aren't shared."""
        theirs = [tuple(self._said(path)) for path in paths]
        return [self._shared.translate(logits) for logits in self._text.logits(theirs)]

    def close(self) -> None:
        """Give the cache back. Idempotent."""
        self._text.close()

    def _said(self, tokens: Iterable[int]) -> list[int]:
        """The model's tokens for some of ours. Control tokens, and pieces of characters that it
        has no token for, aren't said."""
        found = list[int]()
        for token in tokens:
            if (theirs := self._shared.to_theirs.get(token)) is not None:
                found.append(theirs)
            elif words := whole_characters(self._ours.token_bytes(token))[0]:
                found += retokenise(self._theirs, "", words)
        return found


def opening(tokenizer: Tokenizer) -> list[int]:
    """What a model's text begins with where ours has nothing to say yet: one token."""
    for token in (tokenizer.bos_id, tokenizer.eos_id):
        if token is not None:
            return [token]
    return [0]
