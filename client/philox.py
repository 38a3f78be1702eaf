"""Philox4x32-10, a counter-based random generator, and the Gumbel noise drawn from it.

A counter-based generator has no state: the noise of (seed, position, token) is a pure function, so
drafting, speculation and re-routing can't shift it, and an auditor draws any value alone.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011; the
constants and known answers are those of its library Random123. ``docs/sampling.md`` publishes
values of our Gumbel rule.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hearthring.protocol.errors import BadOption

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

SEEDS = 1 << 64
"""Seeds are whole numbers below this."""

_ROUNDS = 10
_LOW = (1 << 32) - 1
_MASK, _HALF = np.uint64(_LOW), np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_BLOCK = 8192
"""Tokens drawn at once: the intermediate words stay in the processor's cache."""


def philox(
    key: tuple[int, int], c0: ArrayLike, c1: ArrayLike, c2: ArrayLike, c3: ArrayLike
) -> tuple[U64, U64, U64, U64]:
    """The four output words for each counter (c0, c1, c2, c3) under one key.

    Key and counter words are below 2**32; the counter words broadcast against each other. The
    output words are below 2**32 too, held in uint64.
    """
    x0, x1, x2, x3 = (np.asarray(word, np.uint64) for word in (c0, c1, c2, c3))
    k0, k1 = key
    for _ in range(_ROUNDS):
        even, odd = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
        x0 = (odd >> _HALF) ^ x1 ^ np.uint64(k0)
        x2 = (even >> _HALF) ^ x3 ^ np.uint64(k1)
        x1, x3 = odd & _MASK, even & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return x0, x1, x2, x3


def block(seed: int, counter: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The four words of one counter, in whole numbers: what a few draws cost least with.

    Key = (low, high word of ``seed``); equals ``philox``. Raises ``BadOption`` for a seed beyond
    64 bits.
    """
    if not 0 <= seed < SEEDS:
        raise BadOption(f"{seed} is outside 0 to 2**64 - 1", field="seed")
    x0, x1, x2, x3 = counter
    k0, k1 = seed & _LOW, seed >> 32
    for _ in range(_ROUNDS):
        even, odd = x0 * 0xD2511F53, x2 * 0xCD9E8D57
        x0, x1 = (odd >> 32) ^ x1 ^ k0, odd & _LOW
        x2, x3 = (even >> 32) ^ x3 ^ k1, even & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return x0, x1, x2, x3


def gumbel(seed: int, position: int, token_ids: I64) -> F64:
    """Standard Gumbel noise of each token at one position, float64 in the shape of ``token_ids``.

    Key = (low, high word of ``seed``), counter = (``position``, token id, 0, 0), x = first output
    word, u = (x + ½) / 2³², noise = −ln(−ln u). It lies between −3.2 and 22.9. Ids are below
    2**32. Raises ``BadOption`` for a seed beyond 64 bits or a position beyond 32.
    """
    if not 0 <= seed < SEEDS:
        raise BadOption(f"{seed} is outside 0 to 2**64 - 1", field="seed")
    if not 0 <= position <= _LOW:
        raise BadOption(f"{position} is outside 0 to 2**32 - 1", field="position")
    key = seed & _LOW, seed >> 32
    flat = token_ids.reshape(-1)
    noise = np.empty(flat.size)
    for start in range(0, flat.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        word = philox(key, position, flat[block], 0, 0)[0]
        noise[block] = -np.log(-np.log((word + 0.5) / 2.0**32))
    return noise.reshape(token_ids.shape)
