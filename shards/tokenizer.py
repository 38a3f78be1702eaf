"""Text to token ids and back, with the vocabulary that a model file carries.

Ids are those llama.cpp gives: byte-level BPE on the words of the file's pre-tokenizer, special
tokens taken out of the text first, the longest first. The one exception are letters and digits new
in Unicode 15.1 and 16, which llama.cpp takes for symbols; the models' own tokenizers, and this one,
don't. Building from the file takes less time than
parsing a saved tokenizer would, so none is saved.
"""

import codecs
from collections.abc import Iterable
from typing import Final

from tokenizers import Regex
from tokenizers import Tokenizer as Engine
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

from hearthring.protocol.errors import BadModelFile, BadOption
from hearthring.shards.gguf_file import GgufFile

_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3: Final = (
    r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "smollm": (r"\p{N}", _GPT2),
    "gpt-2": (_GPT2,),
    "default": (r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "llama-bpe": (_LLAMA3,),
    "qwen2": (_LLAMA3.replace("{1,3}", ""),),
}
"""Splits of each pre-tokenizer; each goes on with the words of the one before."""
_WHOLE_WORDS: Final = frozenset({"llama-bpe"})
"""Pre-tokenizers whose words, where they are tokens, aren't merged from bytes."""

_NORMAL, _UNKNOWN, _CONTROL, _USER = 1, 2, 3, 4
_ENDS: Final = frozenset(
    {
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>"),
        *("<|calls|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>"),
        *("[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>"),
        *("<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
        # llama.cpp ends at these too: behind them a code model would begin another file.
        *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>"),
        *("<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
    }
)
"""Texts of tokens that end a generation, whatever the metadata says."""


def _byte_of() -> dict[str, int]:
    """Byte-level BPE writes bytes that don't print as characters from 256 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if chr(byte) not in table)
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF: Final = _byte_of()


class Tokenizer:
    """The tokenizer of one model.

    ``eos_ids`` end a generation. ``bos_id`` is put before a raw prompt when ``add_bos`` says so;
    ``encode`` never adds it. Safe to use from several threads.
    """

    def __init__(
        self,
        engine: Engine,
        tokens: tuple[str, ...],
        types: tuple[int, ...],
        *,
        eos_ids: frozenset[int],
        eos_id: int | None = None,
        bos_id: int | None = None,
        add_bos: bool = False,
    ) -> None:
        self._engine, self._tokens, self._types = engine, tokens, types
        self.vocabulary = len(tokens)
        self.eos_ids, self.eos_id, self.bos_id, self.add_bos = eos_ids, eos_id, bos_id, add_bos
        specials = [i for i, kind in enumerate(types) if kind in (_UNKNOWN, _CONTROL, _USER)]
        self._specials = sorted(specials, key=lambda i: -len(tokens[i].encode()))

    @classmethod
    def from_gguf(cls, gguf: GgufFile) -> "Tokenizer":
        """The tokenizer in a model file. Raises ``BadModelFile`` when there is none like it."""
        field = str(gguf.path)
        model, pre = gguf.text("tokenizer.ggml.model"), gguf.text("tokenizer.ggml.pre")
        if model != "gpt2":
            raise BadModelFile(f"tokenizer model {model!r:.80} isn't supported", field=field)
        pre = "default" if pre is None else pre
        if pre not in _WORDS:
            raise BadModelFile(f"pre-tokenizer {pre!r:.80} isn't supported", field=field)
        tokens = gguf.texts("tokenizer.ggml.tokens")
        types = list(gguf.integers("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens))
        ids = {token: index for index, token in enumerate(tokens)}
        if len(ids) != gguf.shape.vocabulary or len(types) != len(tokens):
            raise BadModelFile("tokens are missing or stand there twice", field=field)
        ends = {ids[text] for text in _ENDS & ids.keys()}
        for end in ends:
            types[end] = _CONTROL

        def named(key: str) -> int | None:
            return gguf.integer(f"tokenizer.ggml.{key}_token_id", 0, len(tokens) - 1)

        by_name = map(named, ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"))
        add_bos = gguf.flag("tokenizer.ggml.add_bos_token")
        return cls(
            _engine(gguf, pre, ids),
            tokens,
            tuple(types),
            eos_ids=frozenset(ends | {found for found in by_name if found is not None}),
            eos_id=named("eos"),
            bos_id=named("bos"),
            add_bos=pre == "llama-bpe" if add_bos is None else add_bos,
        )

    def encode(self, text: str, *, specials: bool) -> list[int]:
        """Ids of a text.

        With ``specials``, the text of a special token becomes that token; without, it is text like
        any other (tokens that the model's makers added as words stay tokens). Raises ``BadOption``
        for a text that isn't Unicode.
        """
        parts: list[str | int] = [text]
        for special in self._specials:
            if not specials and self._types[special] != _USER:
                continue
            token = self._tokens[special]
            if not token or token not in text:
                continue
            parts = [piece for part in parts for piece in _split(part, token, special)]
        ids: list[int] = []
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
                continue
            try:
                ids += self._engine.encode(part, add_special_tokens=False).ids
            except (TypeError, UnicodeEncodeError):
                raise BadOption("the text isn't Unicode", field="prompt") from None
        return ids

    def token_bytes(self, token: int) -> bytes:
        """Bytes that a token stands for; none for a control token.

        Raises ``BadOption`` for an id outside the vocabulary.
        """
        if not 0 <= token < self.vocabulary:
            raise BadOption(f"{token} isn't a token of this model", field="token id")
        text, kind = self._tokens[token], self._types[token]
        if kind == _USER:
            return text.encode()
        if kind != _NORMAL:
            return b""
        return b"".join(bytes([_BYTE_OF[c]]) if c in _BYTE_OF else c.encode() for c in text)

    def token_text(self, token: int) -> str:
        """A token as the file writes it, control tokens too. Raises as ``token_bytes``."""
        if not 0 <= token < self.vocabulary:
            raise BadOption(f"{token} isn't a token of this model", field="token id")
        return self._tokens[token]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of some tokens; bytes that aren't UTF-8 become U+FFFD. Raises ``BadOption``."""
        return b"".join(self.token_bytes(token) for token in ids).decode("utf-8", "replace")


class StreamDecoder:
    """Text of tokens as they come.

    The pieces, with the last one from ``flush``, are together what ``decode`` gives for all: a
    character whose bytes come in several tokens is held back until it is whole.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that is certain now. Raises ``BadOption``; the decoder is then unchanged."""
        return self._utf8.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """What is held back. The decoder is then as new."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def _split(part: str | int, token: str, special: int) -> list[str | int]:
    if isinstance(part, int):
        return [part]
    found: list[str | int] = []
    for index, text in enumerate(part.split(token)):
        if index:
            found.append(special)
        if text:
            found.append(text)
    return found


def _engine(gguf: GgufFile, pre: str, ids: dict[str, int]) -> Engine:
    merges = []
    for merge in gguf.texts("tokenizer.ggml.merges"):
        left, space, right = merge.partition(" ")
        if not (left and space and right):
            raise BadModelFile(f"merge {merge!r:.80} isn't a pair", field=str(gguf.path))
        merges.append((left, right))
    try:
        engine = Engine(BPE(ids, merges, ignore_merges=pre in _WHOLE_WORDS))
    except Exception as error:  # the library raises its errors as plain Exception
        reason = f"the tokenizer can't be built: {str(error)!r:.200}"
        raise BadModelFile(reason, field=str(gguf.path)) from None
    splits: list[PreTokenizer] = [Split(Regex(words), "isolated") for words in _WORDS[pre]]
    engine.pre_tokenizer = Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])
    return engine
