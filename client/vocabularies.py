"""Drafting in another vocabulary than the target's. Pure functions, and a class of tables.

Three ways, of Timor et al., "Accelerating LLM inference with lossless speculative decoding
algorithms for heterogeneous vocabularies", ICML 2025:

- SLEM (algorithm 2): the draft's text is cut into the target's tokens, which are taken as they are:
  a guess counts when it equals the token that the target has chosen. ``retokenise``.
- TLI (algorithm 4): the draft says only tokens that both have, and is judged by its own chances of
  these. ``Shared``.
- SLRS (algorithm 3): the target's first token of what the draft has written is judged by the chance
  of all that the draft may have written instead. That takes enumeration, so it is for small
  vocabularies. ``first_token_chances``.
"""

import codecs
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hearthring.client.philox import F64, I64
from hearthring.protocol.tensors import F32
from hearthring.shards.tokenizer import Tokenizer

Encode = Callable[[str], Sequence[int]]
Spell = Callable[[int], bytes]
"""The bytes of a token."""


def cut(tokens: Iterable[int], spell: Spell, text: bytes, at: int) -> list[int] | None:
    """The tokens of ``text`` that begin at byte ``at`` of it, and those behind them.

    ``tokens`` are an encoding of ``text``, which may put a blank before it. None when no token
    begins there, as one goes across, or when they don't spell the text.
    """
    tokens = list(tokens)
    spelt = b"".join(map(spell, tokens))
    if spelt == b" " + text:
        at += 1
    elif spelt != text:
        return None
    begin = 0
    for place, token in enumerate(tokens):
        if begin == at:
            return tokens[place:]
        begin += len(spell(token))
    return [] if begin == at else None


def retokenise(tokenizer: Tokenizer, before: str, words: str) -> list[int]:
    """The tokens of ``words`` where they follow ``before``.

    Cut as in one text, unless a token would go across the seam, which the tokens that are there
    already rule out: then ``words`` are cut by themselves. Empty when neither spells them.
    """
    # A line break hardly ever merges, and takes the blank that some put in front of a text.
    for front in (before, "\n"):
        text = front + words
        tokens = tokenizer.encode(text, specials=False)
        found = cut(tokens, tokenizer.token_bytes, text.encode(), len(front.encode()))
        if found is not None:
            return found
    return []


def whole_characters(written: bytes) -> tuple[str, bytes]:
    """The text of some bytes up to the last whole character, and the rest, of at most 3 bytes.

    What can't become UTF-8 any more is U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode(written), decoder.getstate()[0]


@dataclass(frozen=True, slots=True)
class Shared:
    """Tokens that two vocabularies have: ``theirs[i]`` and ``ours[i]`` spell the same.

    ``to_theirs`` has their id for each of ours that is shared. Each id stands in one pair only.
    """

    ours: I64
    theirs: I64
    size: int
    """Tokens of our vocabulary."""
    to_theirs: dict[int, int]

    @staticmethod
    def of(ours: Tokenizer, theirs: Tokenizer) -> "Shared":
        """By the bytes that tokens stand for. Control tokens stand for none, and are left out."""
        mine, other = spellings(ours), spellings(theirs)
        pairs = {mine[piece]: other[piece] for piece in mine.keys() & other.keys()}
        kept = sorted(pairs)
        return Shared(
            np.array(kept, np.int64),
            np.array([pairs[token] for token in kept], np.int64),
            ours.vocabulary,
            pairs,
        )

    def translate(self, logits: F32) -> F32:
        """Their logits on our ids, ``[size]``: -inf for what they can't say, so that a softmax of
        the result is theirs restricted to shared tokens, renormalised (TLI's)."""
        found = np.full(self.size, -np.inf, np.float32)
        found[self.ours] = logits[self.theirs]
        return found


def spellings(tokenizer: Tokenizer) -> dict[bytes, int]:
    """A token for every byte string that one stands for; of several, the one that text becomes."""
    found = dict[bytes, int]()
    for token in range(tokenizer.vocabulary):
        piece = tokenizer.token_bytes(token)
        # Byte tokens, which come first, are for what no other token spells.
        if piece and (piece not in found or tokenizer.token_text(found[piece]).startswith("<0x")):
            found[piece] = token
    return found


def first_token_chances(
    draft: Callable[[tuple[int, ...]], F64],
    spell: Callable[[int], str],
    encode: Encode,
    length: int,
    size: int,
) -> F64:
    """How likely the target's first token of what the draft writes is each one: ``[size]``.

    The draft writes until there are ``length`` characters, of which the longest token has no more.
    ``draft(path)`` is its distribution after a path, ``[its vocabulary]``; its tokens have one
    character at least. All paths are enumerated: exponential in ``length``.
    """
    chances = np.zeros(size)

    def write(path: tuple[int, ...], written: str, chance: float) -> None:
        if len(written) >= length:
            chances[encode(written)[0]] += chance
            return
        for token, share in enumerate(draft(path)):
            if share:
                write((*path, token), written + spell(token), chance * float(share))

    write((), "", 1.0)
    return chances
