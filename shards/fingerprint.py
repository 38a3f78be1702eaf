"""The fingerprint of a numerics class: what an engine makes of fixed weights.

Two engines with equal fingerprints are taken to give equal bits. So the fixed model has the real
one's shape (kernels are chosen by shape), and the rows go through both kinds, several batch sizes
and contexts to 2000.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from hearthring.protocol.tensors import F32, Residual, pack, unpack
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.families import layer_parts
from hearthring.shards.shape import Shape

PROMPT = 1991
STEPS = ((0, 64, 639, 1990), (1991,), (1, 2, 65, 127, 128, 640, 1023, 1991))
"""Positions of the generated rows, step by step; a row's ancestors are the prompt's rows."""

WeightLoader = Callable[[str], F32]


MOST_EXPERTS = 8
"""Experts of the fixed model, unless a row uses more: as many as tell a wrong choice."""


def fingerprints(
    make_engine: Callable[[WeightLoader, Shape], Engine], shape: Shape, residual: Residual
) -> str:
    """One ``fingerprint`` over every sort of layer that a model of ``shape`` has.

    ``make_engine`` is given fixed weights and the one-layer shape they are for.
    """
    found = []
    for sort in shape.sorts():
        fixed = fixed_shape(sort)
        found.append(fingerprint(partial(_swapped, make_engine, fixed), fixed, residual))
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


def fixed_shape(shape: Shape) -> Shape:
    """A shape whose fixed weights are of bearable size."""
    return replace(shape, experts=min(shape.experts, max(MOST_EXPERTS, shape.experts_used)))


def _swapped(
    make_engine: Callable[[WeightLoader, Shape], Engine], shape: Shape, load: WeightLoader
) -> Engine:
    return make_engine(load, shape)


def fingerprint(
    make_engine: Callable[[WeightLoader], Engine], shape: Shape, residual: Residual
) -> str:
    """SHA-256, hex, over the outputs of a one-layer model of ``shape`` with fixed weights.

    ``make_engine`` is given the weights by GGUF name and returns an engine for layer 0. The hash
    covers the residual type too. ``shape.context`` bounds the contexts that are tried.
    """
    engine = make_engine(lambda name: fixed_weight(name, shape))
    prompt = min(PROMPT, shape.context - 1)
    steps = [tuple(p for p in step if p <= prompt) for step in STEPS]
    cache = engine.new_cache(prompt + sum(map(len, steps)))
    digest = hashlib.sha256(f"hearthring fingerprint 1 {residual.value}".encode())
    slots = np.arange(prompt, dtype=np.int64)

    def run(rows: list[EngineRow], seed: int) -> None:
        wide = uniform(seed, (len(rows), shape.width))
        states = unpack(pack(wide, residual), len(rows), shape.width, residual)
        out, _ = engine.forward((Segment(cache, tuple(rows)),), states)
        digest.update(pack(out, residual))

    run([EngineRow(Kind.PROMPT, p, p, slots[: p + 1]) for p in range(prompt)], 1)
    free = prompt
    for seed, positions in enumerate(steps, 2):
        rows = []
        for position in positions:
            path = np.append(slots[:position], free)
            rows.append(EngineRow(Kind.GENERATED, position, free, path))
            free += 1
        if rows:
            run(rows, seed)
    return digest.hexdigest()


def fixed_weight(name: str, shape: Shape) -> F32:
    """The weight called ``name`` in the fixed model, scaled so that outputs stay near 1."""
    part = name.split(".", 2)[2]
    size = layer_parts(shape)[part]
    seed = hashlib.sha256(part.removesuffix(".weight").encode()).digest()[:8]
    noise = uniform(int.from_bytes(seed, "big"), size)
    if len(size) == 1:
        return (part.endswith(".weight") + noise / 8).astype(np.float32)
    return noise * np.float32(2 / size[-1] ** 0.5)


def uniform(seed: int, size: tuple[int, ...]) -> F32:
    """Values in [-1, 1) from PCG64's raw words: numpy may change its distributions, not those."""
    count = int(np.prod(size))
    words = np.random.PCG64(seed).random_raw(-(-count // 4)).astype("<u8").view("<i2")[:count]
    values: F32 = (words.astype(np.float32) / np.float32(32768)).reshape(size)
    return values
