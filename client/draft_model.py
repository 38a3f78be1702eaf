"""The model draft: a small model at the client writes ahead of the large one in the ring.

It chooses as the large one will: the likeliest token at temperature 0, above it the one that the
same noise favours, of the same seed, position and token (``client/sampler.py``). Two models that
agree on what is likely then agree on what is drawn (Daliri et al., "Coupling without communication
and drafter-invariant speculative decoding", 2024).
"""

from collections.abc import Sequence

from hearthring.client.draft import Candidate, Setting
from hearthring.client.local_model import local_model, same_vocabulary
from hearthring.client.local_text import LocalText
from hearthring.client.pace import Explain
from hearthring.client.sampler import Sampling, leaders
from hearthring.client.trees import Guess, grow
from hearthring.protocol.errors import BadOption, EngineError, NonFinite

LEAST = 0.02
"""Chance of the text's getting to a candidate, below which none is worth a pass."""


class ModelDraft:
    """Guesses of a local model of the target's vocabulary, which has ``size`` tokens.

    With ``wide`` above 1 its proposal is a tree: up to so many siblings, wherever the second choice
    promises more than going on behind the first. ``chance`` is the softmax of what decides, noise
    included; candidates below ``least``, with all before them, aren't looked for. A text that
    outgrows the model's context isn't guessed at any more.
    """

    def __init__(
        self,
        text: LocalText,
        size: int,
        sampling: Sampling,
        wide: int = 1,
        least: float = LEAST,
        explain: Explain | None = None,
    ) -> None:
        self.name = f"model:{text.model.name}"
        self._text, self._size, self._sampling = text, size, sampling
        self._wide, self._least, self._explain = wide, least, explain
        self._fresh, self._over = True, False

    def forget(self) -> None:
        """A new text begins."""
        self._fresh, self._over = True, False

    def observe(self, tokens: Sequence[int]) -> None:
        """The text goes on. What has to be run for it is run when something is asked."""
        if self._fresh:
            self._text.begin(tokens)
        else:
            self._text.append(tokens)
        self._fresh = False

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        """A chain, or a tree: a pass through the model for every token. A text that it has yet to
        read is read in pieces of ``local_text.PIECE`` tokens, and the proposal is empty meanwhile.
        """
        if self._over:
            return []
        try:
            if not self._text.catch_up():
                return []
            return grow(lambda path: self._guesses((*tail, *path)), most, self._least)
        except (EngineError, NonFinite) as error:
            self._over = True
            if self._explain is not None:
                self._explain(f"no more guesses of {self._text.model.name}: {error.message}")
            return []

    def close(self) -> None:
        """The text's cache goes; the model stays with the client."""
        self._over = True
        self._text.close()

    def _guesses(self, path: tuple[int, ...]) -> list[Guess]:
        logits = self._text.logits([path])[0][: self._size]
        history = [*self._text.tokens, *path]
        return leaders(logits, history, len(history), self._sampling, self._wide)


def open_model(setting: Setting) -> ModelDraft:
    """The draft from the model that the argument names, by name or file.

    Raises ``BadOption`` for a model of another vocabulary, and as ``local_model``.
    """
    model, ours = local_model(setting), setting.model.tokenizer
    if not same_vocabulary(ours, model.tokenizer):
        raise BadOption(
            f"{model.name} has other tokens than {setting.model.entry.name}",
            field="draft",
            mend="a draft needs the vocabulary of the model that it guesses for",
        )
    text = LocalText(model, setting.model.shape.context)
    return ModelDraft(text, ours.vocabulary, setting.sampling, explain=setting.explain)
