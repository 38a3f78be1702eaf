"""A small shape of every family with seeded weights, and fast torch engines of them on the CPU."""

from dataclasses import replace

import numpy as np

from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.families import layer_tensors
from hearthring.shards.shape import Shape
from hearthring.shards.torch_fast import FastTorchEngine, Place, choose_place

CPU = choose_place("cpu")
LLAMA = Shape("llama", 3, 64, 4, 2, 16, 96, 300, 512, 1e-5, 10_000.0)
SHAPES = {
    "llama": LLAMA,
    "mistral": replace(LLAMA, windows=(5, 5, 5)),
    "mixtral": replace(LLAMA, experts=4, experts_used=2),
    "qwen2": replace(LLAMA, architecture="qwen2", interleaved_rope=False),
    "qwen3": replace(LLAMA, architecture="qwen3", interleaved_rope=False, head_width=24),
    "qwen3moe": replace(
        LLAMA,
        architecture="qwen3moe",
        interleaved_rope=False,
        experts=6,
        experts_used=3,
        experts_normed=False,
    ),
    "gemma2": replace(
        LLAMA,
        architecture="gemma2",
        interleaved_rope=False,
        windows=(6, 0, 6),
        attention_cap=5.0,
        query_scale=0.2,
    ),
    "gemma3": replace(
        LLAMA,
        architecture="gemma3",
        interleaved_rope=False,
        windows=(4, 4, 0),
        sliding_rope_base=1000.0,
        kv_heads=1,
    ),
    "phi3": replace(
        LLAMA,
        architecture="phi3",
        interleaved_rope=False,
        rope_width=8,
        rope_factors=(1.0, 1.5, 2.0, 4.0),
        rope_magnitude=1.1,
    ),
}


def weights(shape: Shape, seed: int = 0) -> dict[str, F32]:
    """Every weight of every layer, by name."""
    draw = np.random.default_rng(seed)
    found = {}
    for layer in range(shape.layers):
        for name, size in layer_tensors(shape, layer).items():
            noise = draw.standard_normal(size) * (0.1 if len(size) == 1 else size[-1] ** -0.5)
            found[name] = (noise + ("norm" in name)).astype(np.float32)
    return found


def engine(
    shape: Shape = LLAMA,
    start: int = 0,
    end: int | None = None,
    residual: Residual = Residual.FP32,
    place: Place = CPU,
) -> FastTorchEngine:
    """Some layers of a shape."""
    load = weights(shape).__getitem__
    return FastTorchEngine(load, shape, start, end or shape.layers, residual, place=place)


def states(count: int, shape: Shape = LLAMA, seed: int = 1) -> F32:
    """Rows to send through it."""
    return np.random.default_rng(seed).standard_normal((count, shape.width)).astype(np.float32)


def apart(one: F32, other: F32) -> float:
    """The relative error of one beside the other."""
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))
