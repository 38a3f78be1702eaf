"""What a draft is: a guesser of tokens to come, cheap enough to be wrong.

A draft can't change an answer. The ring runs what it proposes, and only those rows stay whose
token the model itself has chosen (``client/speculation.py``); a bad draft costs time alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from hearthring.client.sampler import Sampling

if TYPE_CHECKING:
    from hearthring.client.acceptance import Rule
    from hearthring.client.remembered import Remembered
    from hearthring.client.request import PromptModel
    from hearthring.shards.gguf_file import GgufFile
    from hearthring.shards.timings import Fit


@dataclass(frozen=True, slots=True)
class Candidate:
    """One proposed token.

    ``parent`` is its parent's index in the proposal, below its own; -1 stands for the text with its
    tail. ``chance`` is the draft's own guess, 0 to 1, that the token is chosen, given that its
    parent was.
    """

    token: int
    parent: int
    chance: float


class Draft(Protocol):
    """A guesser for one text at a time. Not thread-safe: one caller at a time.

    No method may block for long: they run between the steps of a generation, on its thread.
    """

    name: str

    def observe(self, tokens: Sequence[int]) -> None:
        """Committed tokens, the prompt first, each once and in order."""

    def propose(self, tail: Sequence[int], most: int) -> list[Candidate]:
        """At most ``most`` tokens that may follow the committed text and ``tail``.

        ``tail`` holds tokens that are under way and not yet committed. Parents come before their
        children, siblings differ in their token. Empty: nothing comes to mind.
        """

    def forget(self) -> None:
        """A new text begins."""

    def close(self) -> None:
        """Give up what it holds. Idempotent."""


@runtime_checkable
class ReadingDraft(Draft, Protocol):
    """A draft that takes time to read a text, and may do so before it is observed."""

    def read(self, prompt: Sequence[int]) -> bool:
        """Read a bounded part of a prompt that will be observed; whether nothing is left to do."""


@runtime_checkable
class ThriftyDraft(Draft, Protocol):
    """A draft that heeds whether it pays to look for something."""

    def trip(self, trip: "Fit") -> None:
        """What a step takes round the ring, by its rows, as far as it is known."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a draft is made for: a model at the client, how it samples, torch's threads here.

    ``argument`` is what follows the name and a colon in ``--draft NAME:ARGUMENT``. ``shared``
    belongs to the client and outlives a generation: what is dear to load is kept there by name.
    ``layers`` is the model's file with the parts of ``drafts.needed_parts``, ``remembered`` where
    the client remembers its texts, if it does; ``explain`` is told in words what a draft has to say
    of itself. ``rule`` is the one that will accept its guesses, ``wide`` how many siblings at a
    place are of use: a draft that knows chances says so many where they promise more than going on.
    """

    model: "PromptModel"
    sampling: Sampling
    threads: int = 1
    argument: str = ""
    shared: dict[str, Any] = field(default_factory=dict)
    remembered: "Remembered | None" = None
    layers: "GgufFile | None" = None
    explain: Callable[[str], None] | None = None
    rule: "Rule | None" = None
    wide: int = 1
