"""A whole model in the client's own memory, to draft with."""

from collections.abc import Callable
from dataclasses import dataclass

from hearthring.client.draft import Setting
from hearthring.protocol.errors import BadOption
from hearthring.shards.ends import Ends, open_ends
from hearthring.shards.engine import Engine
from hearthring.shards.engines import load_engine
from hearthring.shards.store import ModelStore
from hearthring.shards.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class LocalModel:
    """All layers, their ends, and the vocabulary. Not thread-safe; texts have caches of their own
    (``client/local_text.py``), so that any number of them may take turns."""

    name: str
    engine: Engine
    ends: Ends
    tokenizer: Tokenizer

    @property
    def context(self) -> int:
        """Tokens that it can read."""
        return self.ends.shape.context


def open_local(name: str, threads: int, say: Callable[[str], None]) -> LocalModel:
    """A model of this user's store, or a file: loaded whole, which may take seconds.

    Raises ``BadOption`` when only parts of it are here, and what ``ModelStore.find`` and
    ``load_engine`` raise.
    """
    entry = ModelStore().find(name)
    if not entry.whole:
        raise BadOption(
            f"only parts of {name} are here, and a draft needs all of it",
            field="draft",
            mend="import its file with `hearthring model import`",
        )
    gguf = entry.open()
    window, residual = (0, gguf.shape.layers), entry.manifest.residual
    engine = load_engine("auto", gguf, window, residual, threads, say=say)
    ends = open_ends("auto", gguf, residual, threads, say)
    return LocalModel(entry.name, engine, ends, Tokenizer.from_gguf(gguf))


def local_model(setting: Setting) -> LocalModel:
    """The model that a draft's argument names. It is loaded once for all texts of a client.

    Raises ``BadOption`` without an argument, and as ``open_local``.
    """
    name = setting.argument
    if not name:
        raise BadOption(
            "which model?", field="draft", mend="give its name or file, as in model:smollm2"
        )
    key = f"model {name}"
    if key not in setting.shared:
        say = setting.explain or (lambda words: None)
        setting.shared[key] = open_local(name, setting.threads, say)
    found: LocalModel = setting.shared[key]
    return found


def vocabulary(tokenizer: Tokenizer) -> list[str]:
    """The texts of all tokens, by id."""
    return [tokenizer.token_text(token) for token in range(tokenizer.vocabulary)]


def same_vocabulary(ours: Tokenizer, theirs: Tokenizer) -> bool:
    """Whether an id means the same to both. One may have more tokens at its end: models of a
    family pad their vocabularies differently, and a draft never needs what the other lacks."""
    few = min(ours.vocabulary, theirs.vocabulary)
    return all(ours.token_text(token) == theirs.token_text(token) for token in range(few))
