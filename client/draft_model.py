"""The model draft: a small model at the client writes ahead of the large one in the ring.

It chooses as the large one will: the likeliest token at temperature 0, above it the one that the
same noise favours, of the same seed, position and token (``client/sampler.py``). Two models that
agree on what is likely then agree on what is drawn (Daliri et al., "Coupling without communication
and drafter-invariant speculative decoding", 2024). For rules that judge distributions it draws what
it says, and tells from what.
"""

from collections.abc import Sequence
from typing import Protocol

from hearthring.client.acceptance import Offer, Rule
from hearthring.client.ahead_text import AheadText
from hearthring.client.draft import Candidate, Draft, Setting
from hearthring.client.draft_slem import RetoldDraft
from hearthring.client.local_model import LocalModel, local_model, same_vocabulary
from hearthring.client.local_text import LocalText
from hearthring.client.pace import Explain
from hearthring.client.philox import F64
from hearthring.client.sampler import Sampling, distribution, leaders
from hearthring.client.shared_text import SharedText
from hearthring.client.suffix import SuffixDraft
from hearthring.client.trees import Guess, grow
from hearthring.client.vocabularies import Shared
from hearthring.client.written_text import WrittenText
from hearthring.protocol.errors import BadOption, EngineError, NonFinite
from hearthring.protocol.tensors import F32

FIRST = 2
"""Tokens that are looked for when a prompt was read."""
LEAST = 0.02
"""Chance of the text's getting to a candidate, below which none is worth a pass."""
RETOLD = 4
"""So many times the target's context is room for a text that is told in other tokens."""


class Text(Protocol):
    """What a text is to a draft: ``LocalText``, or one that reads it in another vocabulary."""

    name: str

    @property
    def tokens(self) -> list[int]:
        """The text, in the target's tokens as everything here."""

    def begin(self, prompt: Sequence[int]) -> None:
        """Another text begins."""

    def append(self, tokens: Sequence[int]) -> None:
        """It goes on."""

    def catch_up(self) -> bool:
        """Run some of it that waits; whether none is left and little was."""

    def logits(self, paths: Sequence[tuple[int, ...]]) -> list[F32]:
        """Logits after the text and paths that may follow it; -inf for what it never says."""

    def close(self) -> None:
        """Give up what it holds. Idempotent."""


class ModelDraft:
    """Guesses of a local model in the target's vocabulary, which has ``size`` tokens.

    With ``wide`` above 1 its proposal is a tree: up to so many siblings, wherever the second choice
    promises more than going on behind the first. ``chance`` is the softmax of what decides, noise
    included; candidates below ``least``, with all before them, aren't looked for. A text that
    outgrows the model's context isn't guessed at any more.
    """

    def __init__(
        self,
        text: Text,
        size: int,
        sampling: Sampling,
        wide: int = 1,
        least: float = LEAST,
        explain: Explain | None = None,
        rule: Rule | None = None,
    ) -> None:
        self.name = text.name
        self._text, self._size, self._sampling = text, size, sampling
        self._wide, self._least, self._explain = wide, least, explain
        self._rule = rule if rule is not None and rule.judges_distributions else None
        self._offer: Offer | None = None
        self._fresh, self._over = True, False

    @classmethod
    def of(cls, setting: Setting, text: Text, size: int) -> "ModelDraft":
        """As a setting has it."""
        told, rule = setting.explain, setting.rule
        return cls(text, size, setting.sampling, setting.wide, explain=told, rule=rule)

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

    def read(self, prompt: Sequence[int]) -> bool:
        """Read some of a text that will be observed, as ``draft.ReadingDraft``, and in the end look
        for what the first question will be about: an engine's first passes take longest."""
        if self._text.tokens != prompt:
            self._text.begin(prompt)
        try:
            done = self._over or self._text.catch_up()
        except (EngineError, NonFinite) as error:
            self._stop(error)
            return True
        if done:
            self.propose((), FIRST)
        return done

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        """A chain, or a tree: a pass through the model for every token. A text that it has yet to
        read is read in pieces of ``local_text.PIECE`` tokens, and the proposal is empty meanwhile.
        """
        self._offer = None
        if self._over:
            return []
        try:
            if not self._text.catch_up():
                return []
            if self._rule is not None:
                return self._draw(self._rule, tuple(tail), most)
            return grow(lambda path: self._guesses((*tail, *path)), most, self._least)
        except (EngineError, NonFinite) as error:
            self._stop(error)
            return []

    def offered(self) -> Offer | None:
        """What the last proposal was drawn from, as ``acceptance.DrawingDraft``."""
        return self._offer

    def close(self) -> None:
        """The text's cache goes; the model stays with the client."""
        self._over = True
        self._text.close()

    def _stop(self, error: EngineError | NonFinite) -> None:
        self._over = True
        if self._explain is not None:
            self._explain(f"no more guesses of {self._text.name}: {error.message}")

    def _draw(self, rule: Rule, tail: tuple[int, ...], most: int) -> list[Candidate]:
        """A chain of draws with siblings at its side, which ends there: so how far it goes
        hangs on tokens before a place alone, never on those drawn for it."""
        candidates, places = list[Candidate](), list[tuple[tuple[int, ...], F64]]()
        path, above, reached = tail, -1, 1.0
        while len(candidates) < most and reached >= self._least:
            logits, history = self._logits(path)
            spread = distribution(logits, history, self._sampling)
            seed = self._sampling.seed or 0
            children = rule.offer(spread, self._wide, seed, len(history))
            if not children:
                break
            places.append((children, spread))
            first = len(candidates)
            for token in dict.fromkeys(children):
                candidates.append(Candidate(token, above, float(spread[token])))
            path, above = (*path, children[0]), first
            reached *= candidates[first].chance
        for children, spread in reversed(places):
            self._offer = Offer(children, spread, self._offer)
        return candidates[:most]

    def _logits(self, path: tuple[int, ...]) -> tuple[F32, list[int]]:
        """The logits after a path, and all tokens before."""
        return self._text.logits([path])[0][: self._size], [*self._text.tokens, *path]

    def _guesses(self, path: tuple[int, ...]) -> list[Guess]:
        logits, history = self._logits(path)
        return leaders(logits, history, len(history), self._sampling, self._wide)


def open_model(setting: Setting) -> Draft:
    """The model that the argument names: in the target's vocabulary if it has it, else through text
    (SLEM). Raises as ``local_model``."""
    model = local_model(setting)
    if same_vocabulary(setting.model.tokenizer, model.tokenizer):
        text = LocalText(model, setting.model.shape.context)
        size = setting.model.tokenizer.vocabulary
        return ModelDraft.of(setting, text, size)
    return RetoldDraft(_retold(setting, model), setting.model.tokenizer, explain=setting.explain)


def open_tli(setting: Setting) -> Draft:
    """The same model, of whatever vocabulary, restricted to tokens that the target has too."""
    model, ours = local_model(setting), setting.model.tokenizer
    key = f"shared {setting.argument}"
    if key not in setting.shared:
        setting.shared[key] = Shared.of(ours, model.tokenizer)
    text = SharedText(_retold(setting, model), setting.shared[key], ours)
    return ModelDraft.of(setting, text, ours.vocabulary)


def open_slrs(setting: Setting) -> Draft:
    """The same model, judged by all the texts that it might have written instead (SLRS).

    Raises as ``WrittenText``: this is for vocabularies of a few letters.
    """
    model, ours = local_model(setting), setting.model.tokenizer
    text = WrittenText(_retold(setting, model), ours)
    return ModelDraft.of(setting, text, ours.vocabulary)


def open_staged(setting: Setting) -> Draft:
    """The same model as ``open_model``'s, sped up by the suffix draft. It guesses the same.

    Raises ``BadOption`` for a model of another vocabulary.
    """
    model, ours = local_model(setting), setting.model.tokenizer
    if not same_vocabulary(ours, model.tokenizer):
        raise BadOption(
            f"{model.name} has other tokens than {setting.model.entry.name}",
            field="draft",
            mend=f"use model:{setting.argument} or tli:{setting.argument}",
        )
    text = AheadText(LocalText(model, setting.model.shape.context), SuffixDraft())
    return ModelDraft.of(setting, text, ours.vocabulary)


def _retold(setting: Setting, model: LocalModel) -> LocalText:
    return LocalText(model, RETOLD * setting.model.shape.context)
