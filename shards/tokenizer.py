"""Text to token ids and back, with the vocabulary that a model file carries.

Ids are those llama.cpp gives: special tokens are taken out of the text first, the longest first;
the rest goes through byte-level BPE on the words of the file's pre-tokenizer, or SentencePiece's
merging. The one exception are letters and digits new in Unicode 15.1 and 16, which llama.cpp takes
for symbols; the models' own tokenizers, and this one, don't. Building from the file takes less time
than parsing a saved tokenizer would, so none is saved.
"""

import codecs
import re
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from hearthring.protocol.errors import BadModelFile, BadOption
from hearthring.shards.bpe import BytePairs
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.spm import SentencePieces

_NORMAL, _UNKNOWN, _CONTROL, _USER, _BYTE = 1, 2, 3, 4, 6
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
_BOS_FIRST: Final = frozenset({"llama-bpe", "llama3", "llama-v3", "tekken"})
_FLAGS: Final = ("bos_token", "space_prefix")
_BYTE_TEXT: Final = re.compile("<0x[0-9A-F]{2}>")
_BLANKS: Final = " \t\n\v\f\r"


class Tokenizer:
    """The tokenizer of one model.

    ``eos_ids`` end a generation. ``bos_id`` is put before a raw prompt when ``add_bos`` says so;
    ``encode`` never adds it. Safe to use from several threads.
    """

    def __init__(
        self,
        pieces: BytePairs | SentencePieces,
        tokens: tuple[str, ...],
        types: tuple[int, ...],
        *,
        eos_ids: frozenset[int],
        eos_id: int | None = None,
        bos_id: int | None = None,
        add_bos: bool = False,
        space_first: bool = False,
        swallowing: frozenset[int] = frozenset(),
    ) -> None:
        self._pieces, self._tokens, self._types = pieces, tokens, types
        self._space_first, self._swallowing = space_first, swallowing
        self.vocabulary = len(tokens)
        self.eos_ids, self.eos_id, self.bos_id, self.add_bos = eos_ids, eos_id, bos_id, add_bos
        specials = [i for i, kind in enumerate(types) if kind in (_UNKNOWN, _CONTROL, _USER)]
        self._specials = sorted(specials, key=lambda i: -len(tokens[i].encode()))

    @classmethod
    def from_gguf(cls, gguf: GgufFile) -> "Tokenizer":
        """The tokenizer in a model file. Raises ``BadModelFile`` when there is none like it."""
        try:
            return cls._from_gguf(gguf)
        except BadModelFile as error:
            error.field = error.field or str(gguf.path)
            raise

    @classmethod
    def _from_gguf(cls, gguf: GgufFile) -> "Tokenizer":
        model = gguf.text("tokenizer.ggml.model")
        if model not in ("gpt2", "llama"):
            raise BadModelFile(f"tokenizer model {model!r:.80} isn't supported")
        sentences, pre = model == "llama", gguf.text("tokenizer.ggml.pre") or "default"
        tokens = gguf.texts("tokenizer.ggml.tokens")
        types = list(gguf.integers("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens))
        ids = {token: index for index, token in enumerate(tokens)}
        if len(ids) != gguf.shape.vocabulary or len(types) != len(tokens):
            raise BadModelFile("tokens are missing or stand there twice")
        ends = {ids[text] for text in _ENDS & ids.keys()}
        for end in ends:
            types[end] = _CONTROL

        def named(key: str, default: int | None = None) -> int | None:
            found = gguf.integer(f"tokenizer.ggml.{key}_token_id", 0, len(tokens) - 1)
            known = default if sentences and default in range(len(tokens)) else None
            return known if found is None else found

        pieces: BytePairs | SentencePieces
        if sentences:
            pieces = SentencePieces(ids, _scores(gguf, len(tokens)), named("unknown", 0) or 0)
        else:
            pieces = BytePairs(pre, ids, gguf.texts("tokenizer.ggml.merges"))
        by_name = (named("eos", 2), *map(named, ("eot", "eom", "fim_pad", "fim_rep", "fim_sep")))
        add_bos, space = (gguf.flag(f"tokenizer.ggml.add_{key}") for key in _FLAGS)
        return cls(
            pieces,
            tokens,
            tuple(types),
            eos_ids=frozenset(ends | {found for found in by_name if found is not None}),
            eos_id=named("eos", 2),
            bos_id=named("bos", 1),
            add_bos=sentences or pre in _BOS_FIRST if add_bos is None else add_bos,
            space_first=sentences and space is not False,
            swallowing=_swallowing(gguf, tokens, types),
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
            swallows = special in self._swallowing
            parts = [piece for part in parts for piece in _split(part, token, special, swallows)]
        ids: list[int] = []
        space = " " if self._space_first else ""
        for index, part in enumerate(parts):
            if isinstance(part, int):
                ids.append(part)
                continue
            first = part and (index == 0 or isinstance(parts[index - 1], int))
            try:
                ids += self._pieces.encode(space + part if first else part)
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
        if kind == _BYTE:
            return bytes([int(text[3:5], 16)]) if _BYTE_TEXT.fullmatch(text) else b""
        return self._pieces.piece(text) if kind == _NORMAL else b""

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


def _split(part: str | int, token: str, special: int, swallows: bool) -> list[str | int]:
    if isinstance(part, int):
        return [part]
    found: list[str | int] = []
    for index, text in enumerate(part.split(token)):
        if index:
            found.append(special)
            text = text.lstrip(_BLANKS) if swallows else text
        if text:
            found.append(text)
    return found


def _scores(gguf: GgufFile, count: int) -> list[float]:
    key = "tokenizer.ggml.scores"
    found = gguf.fields(key).get(key)
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or len(found) != count:
        raise BadModelFile("there isn't a score for each token")
    if not np.isfinite(found).all():
        raise BadModelFile(f"{key} aren't finite")
    scores: list[float] = found.tolist()
    return scores


def _swallowing(gguf: GgufFile, tokens: Sequence[str], types: Sequence[int]) -> frozenset[int]:
    """Tokens that swallow the blanks behind them: Phi-3's, which llama.cpp tells by the name."""
    named = (gguf.text("general.name") or "").lower()
    if "phi-3" not in named and "phi3" not in named:
        return frozenset()
    specials = (_UNKNOWN, _CONTROL, _USER)
    return frozenset(
        index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in specials and token not in ("<unk>", "<s>", "<|endoftext|>")
    )
