"""One question: what a caller may ask for, checked before anything is loaded or dialled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, TypedDict

from hearthring.client.acceptance import RULES, Rule, rule_named
from hearthring.client.classes import Classes
from hearthring.client.drafts import Make, check_draft
from hearthring.client.sampler import Sampling
from hearthring.client.stops import StopWatcher
from hearthring.protocol.errors import BadOption, PromptTooLong
from hearthring.shards.chat import render_chat
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.manifest import Progress
from hearthring.shards.store import ModelEntry
from hearthring.shards.tokenizer import Tokenizer

__all__ = ["Messages", "Options", "Progress", "PromptModel", "Request", "Unfinished"]

Messages = Sequence[Mapping[str, str]]


class Options(TypedDict, total=False):
    """What ``generate`` and ``stream`` take beside a plain prompt.

    ``messages`` go through the chat template, ``prompt_ids`` are taken as they are. At temperature
    0 the likeliest token is taken; above it the answer depends on ``seed`` alone, and a drawn seed
    is in the answer. ``stop``: strings that end the answer and aren't part of it. ``proof`` False
    saves the receipts. ``draft`` guesses tokens to come (``client/drafts.py``); it changes how fast
    an answer comes, and nothing else. ``acceptance`` is the rule by which guesses are taken
    (``client/acceptance.py``): any but ``gumbel`` makes answers above temperature 0 depend on them.
    ``explain`` is told each decision about guesses, in words, from a thread.
    ``spot_check``: the share of an answer, 0 to 1, at which its stages must show what they computed
    while they do, those of nodes that nothing is known of about twice as often; it takes the
    model's layers, to compare with.
    """

    messages: Messages
    prompt_ids: Sequence[int]
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    proof: bool
    draft: str | Make
    acceptance: str
    explain: Callable[[str], None]
    spot_check: float


_NAMES: dict[type, str] = {str: "strings", Integral: "token ids"}
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A request that failed, and how far it was: what ``AsyncClient.resume`` goes on from.

    ``classes`` are those of the route that chose its last token, none if none was chosen.
    """

    request: "Request"
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    classes: Classes = ()


@dataclass(frozen=True, slots=True)
class Request:
    """A checked question: exactly one of ``prompt``, ``messages`` and ``prompt_ids`` is set."""

    prompt: str | None = None
    messages: Messages | None = None
    prompt_ids: tuple[int, ...] | None = None
    max_tokens: int = 256
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    proof: bool = True
    draft: str | Make | None = None
    rule: Rule = RULES["gumbel"]
    explain: Callable[[str], None] | None = None
    spot_check: float = 0.0

    @property
    def wording(self) -> str:
        """The question's text, as far as it is one."""
        if self.messages is not None:
            return "\n".join(str(message.get("content", "")) for message in self.messages)
        return self.prompt or ""

    @staticmethod
    def read(prompt: str | None, options: Options) -> "Request":
        """Raises ``BadOption`` that names the option and what it allows."""
        if unknown := set(options) - set(Options.__annotations__):
            raise BadOption("there is no such option", field=min(unknown))
        chosen = {name: options[name] for name in _SAMPLING if name in options}  # type: ignore[literal-required]
        limit = options.get("max_tokens", 256)
        if not isinstance(limit, int) or limit < 1:
            raise BadOption(f"{limit!r} isn't allowed", field="max_tokens", mend="1 or more")
        stop = options.get("stop", ())
        stops = (stop,) if isinstance(stop, str) else _listed("stop", stop, str)
        StopWatcher(stops)
        ids, messages = options.get("prompt_ids"), options.get("messages")
        if sum(given is not None for given in (prompt, messages, ids)) != 1:
            raise BadOption("give exactly one of prompt, messages and prompt_ids", field="prompt")
        return Request(
            prompt,
            messages,
            None if ids is None else _listed("prompt_ids", ids, Integral),
            limit,
            Sampling(**chosen).seeded(),
            stops,
            options.get("proof", True),
            check_draft(options["draft"]) if "draft" in options else None,
            rule_named(options.get("acceptance", "gumbel")),
            options.get("explain"),
            _share(options.get("spot_check", 0.0)),
        )


def _listed(name: str, given: Any, kind: type) -> tuple[Any, ...]:
    """A list's items. Raises ``BadOption`` where it isn't one, or holds something else."""
    try:
        items = tuple(given)
    except TypeError:
        items = (None,)
    if not all(isinstance(item, kind) for item in items):
        raise BadOption(
            f"{given!r:.60} isn't allowed", field=name, mend=f"a list of {_NAMES[kind]}"
        )
    return items if kind is str else tuple(int(item) for item in items)


def _share(rate: float) -> float:
    if not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise BadOption(f"{rate!r} isn't allowed", field="spot_check", mend="0 to 1")
    return rate


class PromptModel:
    """The part of a model that turns questions into ids: manifest, tokenizer, chat template."""

    def __init__(self, entry: ModelEntry, gguf: GgufFile) -> None:
        self.entry, self.gguf = entry, gguf
        self.tokenizer = Tokenizer.from_gguf(gguf)
        self.template = gguf.text("tokenizer.chat_template")
        self.shape = entry.manifest.shape

    def ids(self, request: Request) -> list[int]:
        """The prompt's ids. Raises ``BadOption`` for messages or ids that aren't any."""
        words = self.tokenizer
        if request.messages is not None:
            if self.template is None:
                raise BadOption("this model has no chat template", field="messages")
            text = render_chat(
                request.messages,
                self.template,
                bos_token="" if words.bos_id is None else words.token_text(words.bos_id),
                eos_token="" if words.eos_id is None else words.token_text(words.eos_id),
            )
            ids = words.encode(text, specials=True)
        elif request.prompt is not None:
            ids = words.encode(request.prompt, specials=True)
            if words.add_bos and words.bos_id is not None:
                ids = [words.bos_id, *ids]
        else:
            ids = list(request.prompt_ids or ())
        return ids

    def room(self, ids: Sequence[int]) -> int:
        """Tokens left for an answer. Raises ``BadOption`` or ``PromptTooLong``."""
        if not ids:
            raise BadOption("it is empty", field="prompt")
        if any(not 0 <= token < self.tokenizer.vocabulary for token in ids):
            raise BadOption(f"ids go from 0 to {self.tokenizer.vocabulary - 1}", field="prompt_ids")
        if len(ids) >= self.shape.context:
            raise PromptTooLong(
                f"{len(ids)} tokens, and the model's context is {self.shape.context}",
                field="prompt",
                mend="shorten it",
            )
        return self.shape.context - len(ids)
