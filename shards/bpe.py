"""Byte-level BPE: a text cut into words by the file's pre-tokenizer, each merged from its bytes."""

from collections.abc import Iterable, Mapping
from typing import Final

from tokenizers import Regex
from tokenizers import Tokenizer as Engine
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

from hearthring.protocol.errors import BadModelFile

_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ENDINGS: Final = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_REST: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3: Final = (
    rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}"
)
_CAMEL: Final = tuple(
    # llama.cpp takes a letter outside ASCII for both cases.
    rf"[^\r\n\p{{L}}\p{{N}}]?(?:(?=\p{{L}})[^a-z]){upper}(?:(?=\p{{L}})[^A-Z]){lower}"
    for upper, lower in (("*", "+"), ("+", "*"))
)
_TEKKEN: Final = rf"{'|'.join(_CAMEL)}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}"
_GPT4O: Final = (
    rf"{'|'.join(f'{word}(?:{_ENDINGS})?' for word in _CAMEL)}"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}"
)
WORDS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), (r"\p{N}", _GPT2)),
    "gpt-2": (_GPT2,),
    "default": (r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe"), (_LLAMA3,)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), (_LLAMA3.replace("{1,3}", ""),)),
    "tekken": (_TEKKEN,),
    "gpt-4o": (_GPT4O,),
    "deepseek-coder": (
        *(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+"),
        *("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}"),
    ),
}
"""Splits of each pre-tokenizer; each goes on with the words of the one before."""

WHOLE_WORDS: Final = frozenset({"llama-bpe", "llama3", "llama-v3", "tekken"})
"""Pre-tokenizers whose words, where they are tokens, aren't merged from bytes."""


def splitter(pre: str) -> PreTokenizer:
    """What cuts a text into words, and their bytes into characters; ``pre`` is in ``WORDS``."""
    splits: list[PreTokenizer] = [Split(Regex(words), "isolated") for words in WORDS[pre]]
    return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


_GAP: Final = "\0"  # no byte-level token holds it: bytes that don't print are written otherwise


def _byte_of() -> dict[str, int]:
    """Byte-level BPE writes bytes that don't print as characters from 256 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if chr(byte) not in table)
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF: Final = _byte_of()


class BytePairs:
    """A vocabulary with its merges, such as ``Ġ t``. Safe to use from several threads.

    Raises ``BadModelFile`` for merges that aren't pairs of tokens, or an unknown ``pre``.
    """

    def __init__(self, pre: str, ids: Mapping[str, int], merges: Iterable[str]) -> None:
        if pre not in WORDS:
            raise BadModelFile(f"pre-tokenizer {pre!r:.80} isn't supported")
        pairs = []
        for merge in merges:
            left, space, right = merge.partition(" ")
            if not (left and space and right):
                raise BadModelFile(f"merge {merge!r:.80} isn't a pair")
            pairs.append((left, right))
        # A byte without a token vanishes, but its neighbours don't merge across it: the library
        # would let them, were there no token for it.
        self._gap = len(ids)
        vocabulary = {**ids, _GAP: self._gap}
        whole = pre in WHOLE_WORDS
        try:
            self._engine = Engine(BPE(vocabulary, pairs, unk_token=_GAP, ignore_merges=whole))
        except Exception as error:  # the library raises its errors as plain Exception
            raise BadModelFile(f"the tokenizer can't be built: {str(error)!r:.200}") from None
        self._engine.pre_tokenizer = splitter(pre)

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Raises ``TypeError`` or ``UnicodeEncodeError`` for surrogates."""
        ids = self._engine.encode(text, add_special_tokens=False).ids
        return [token for token in ids if token != self._gap]

    def piece(self, text: str) -> bytes:
        """The bytes of a normal token."""
        return b"".join(bytes([_BYTE_OF[c]]) if c in _BYTE_OF else c.encode() for c in text)
