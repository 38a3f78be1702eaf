"""What a dishonest stage may send instead of its output, one function of its input for each way."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bench.answers import Asked, chunks, rows_of, run
from hearthring.protocol.tensors import F32, Residual, pack, unpack
from hearthring.shards.engine import Engine, Segment
from hearthring.verify.digest import top_points
from hearthring.verify.rowhash import CHUNK
from tests.liar import renamed, skipped, stale

Load = Callable[[str], F32]
Hook = Callable[[Load], Load]
Cheat = Callable[[Asked, F32, F32], F32]
"""(answer, states that the stage took, states that it should send) to what it sends."""


def weights(change: Callable[[F32], F32]) -> Hook:
    """Matrices passed through ``change``; vectors stay."""

    def hook(load: Load) -> Load:
        def other(name: str) -> F32:
            weight = load(name)
            return weight if weight.ndim < 2 else change(weight).astype(np.float32)

        return other

    return hook


def rounded(bits: int) -> Callable[[F32], F32]:
    """Whole numbers of so many bits, a scale for every 32."""

    def change(weight: F32) -> F32:
        blocks = weight.reshape(-1, 32)
        scale = np.abs(blocks).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
        scale[scale == 0] = 1
        return (np.round(blocks / scale) * scale).reshape(weight.shape)

    return change


def fp8(weight: F32) -> F32:
    """Three bits of mantissa, as E4M3 has them."""
    mantissa, exponent = np.frexp(weight)
    return np.ldexp(np.round(mantissa * 16) / 16, exponent)


def pruned(weight: F32) -> F32:
    """The smallest 30 % of a matrix are zero."""
    return np.where(np.abs(weight) < np.quantile(np.abs(weight), 0.3), 0, weight)


def hooks(start: int) -> dict[str, Hook]:
    """Engines with other weights than they should have."""
    return {
        "8-bit weights for 4-bit": weights(rounded(8)),
        "5-bit weights": weights(rounded(5)),
        "fp8-like weights": weights(fp8),
        "3-bit weights": weights(rounded(3)),
        "pruned weights": weights(pruned),
        "a skipped layer": skipped(start + 5),
        "two layers swapped": renamed(start + 4, start + 5),
    }


def by_engine(engine: Engine) -> Cheat:
    """An engine that isn't what it should be."""
    return lambda asked, taken, _: run(engine, asked.kinds, taken)[engine.end]


def cut_context(engine: Engine, length: int = 16) -> Cheat:
    """Rows see no further back than to the last multiple of ``length``."""

    def cheat(asked: Asked, taken: F32, _: F32) -> F32:
        parts = [slice(at, at + length) for at in range(0, len(taken), length)]
        return np.concatenate([run(engine, asked.kinds[p], taken[p])[engine.end] for p in parts])

    return cheat


def stale_kv(engine: Engine) -> Cheat:
    """Generated rows attend to the row before last in place of the last."""

    def cheat(asked: Asked, taken: F32, _: F32) -> F32:
        rows = tuple(map(stale, rows_of(asked.kinds)))
        return engine.forward((Segment(engine.new_cache(len(taken)), rows),), taken)[0]

    return cheat


def of_output(change: Callable[[F32, np.random.Generator], F32], residual: Residual) -> Cheat:
    """An honest output, changed, in the residual type."""

    def cheat(asked: Asked, _: F32, honest: F32) -> F32:
        wrong = change(honest, np.random.default_rng(asked.seed)).astype(np.float32)
        return unpack(pack(wrong, residual), *wrong.shape, residual)

    return cheat


def noisy(share: float) -> Callable[[F32, np.random.Generator], F32]:
    """Noise of that share of each row's spread."""
    return lambda honest, draw: (
        honest + (draw.standard_normal(honest.shape) * honest.std(axis=1, keepdims=True) * share)
    )


def noise_unseen(honest: F32, draw: np.random.Generator) -> F32:
    """Noise in place of every value but those that the digest sees."""
    wrong = honest.copy()
    for at, bits in zip(range(0, len(honest), CHUNK), chunks(honest), strict=True):
        part = honest[at : at + CHUNK]
        seen, _ = top_points(bits)
        floor = np.abs(part.reshape(-1)[seen]).min() * 0.99
        spread = np.median(np.abs(part), axis=0) / 0.6745
        loud = (draw.standard_normal(part.shape) * spread).clip(-floor, floor)
        loud.reshape(-1)[seen] = part.reshape(-1)[seen]
        wrong[at : at + CHUNK] = loud
    return wrong


OUTPUTS: dict[str, Callable[[F32, np.random.Generator], F32]] = {
    "noise of 2 %": noisy(0.02),
    "noise of 5 %": noisy(0.05),
    "noise outside the digest's values": noise_unseen,
    "scaled by 1.02": lambda honest, _: honest * 1.02,
    "flipped signs": lambda honest, _: -honest,
    "the row before again": lambda honest, _: np.concatenate([honest[:1], honest[:-1]]),
    "one value of one row off by its last bit": lambda honest, draw: _nudged(honest, draw),
}


def _nudged(honest: F32, draw: np.random.Generator) -> F32:
    wrong = honest.copy()
    row, channel = draw.integers(len(honest)), draw.integers(honest.shape[1])
    bits = wrong.view(np.uint32)
    bits[row, channel] ^= np.uint32(1 << 16)  # the lowest bit of a bf16
    return wrong


def edited(asked: Asked, vocabulary: int, words: int) -> Asked:
    """The same answer after a prompt in which ``words`` tokens are others."""
    draw = np.random.default_rng(asked.seed)
    ids: list[Any] = list(asked.ids)
    places = draw.choice(np.arange(1, asked.prompt), min(words, asked.prompt - 1), replace=False)
    for place in places:
        ids[place] = (ids[place] + int(draw.integers(1, vocabulary))) % vocabulary
    return replace(asked, ids=tuple(ids))
