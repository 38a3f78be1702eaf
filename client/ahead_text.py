"""A text whose model is itself sped up by a draft (Spector, Ré, "Accelerating LLM inference with
staged speculative decoding", 2023).

What a suffix draft expects runs through the model together with what was asked. Where it was right
the next question costs no pass; where it was wrong nothing but its rows is lost. Logits are those
of the plain text, as the engine's rows don't heed what they are batched with.
"""

from collections.abc import Sequence

from hearthring.client.draft import Draft
from hearthring.client.local_text import LocalText
from hearthring.protocol.tensors import F32

AHEAD = 4
"""Tokens that are guessed."""
LEAST = 0.3
"""Chance of the text's getting to a token, below which it isn't run ahead of a question."""


class AheadText:
    """As ``LocalText``, whose answers it gives. Owns ``text`` and ``draft``."""

    def __init__(self, text: LocalText, draft: Draft, least: float = LEAST) -> None:
        self.name = f"staged:{text.model.name}"
        self._text, self._draft, self._least = text, draft, least

    @property
    def tokens(self) -> list[int]:
        """The text."""
        return self._text.tokens

    def begin(self, prompt: Sequence[int]) -> None:
        """Another text."""
        self._text.begin(prompt)
        self._draft.forget()
        self._draft.observe(prompt)

    def append(self, tokens: Sequence[int]) -> None:
        """The text goes on."""
        self._text.append(tokens)
        self._draft.observe(tokens)

    def catch_up(self) -> bool:
        """As ``LocalText.catch_up``."""
        return self._text.catch_up()

    def logits(self, paths: Sequence[tuple[int, ...]]) -> list[F32]:
        """As ``LocalText.logits``."""
        unknown = [path for path in paths if not self._text.knows(path)]
        if unknown:
            self._text.run([*unknown, *(self._guessed(path) for path in unknown)])
        return self._text.logits(paths)

    def close(self) -> None:
        """Give up cache and draft. Idempotent."""
        self._text.close()
        self._draft.close()

    def _guessed(self, path: tuple[int, ...]) -> tuple[int, ...]:
        """A path with what should follow it, as far as there is room."""
        room = min(AHEAD, self._text.room - len(self._text.tokens) - len(path))
        reached, parent = 1.0, -1
        for place, candidate in enumerate(self._draft.propose(path, max(0, room))):
            reached *= candidate.chance
            if candidate.parent != parent or reached < self._least:
                break
            path, parent = (*path, candidate.token), place
        return path
