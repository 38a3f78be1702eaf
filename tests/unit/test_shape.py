"""Shapes are possible or refused; rotary factors are those of transformers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hearthring.protocol.errors import BadModelFile
from hearthring.shards.families import FAMILIES, all_tensors, layer_parts
from hearthring.shards.manifest import canonical
from hearthring.shards.rope_scaling import (
    linear_factors,
    llama3_factors,
    plain_frequencies,
    yarn_factors,
    yarn_magnitude,
)
from hearthring.shards.shape import Rope, Shape

SHAPE = Shape("llama", 4, 64, 4, 2, 16, 128, 300, 512, 1e-5, 10_000.0)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 0},
        {"layers": 2000},
        {"width": 1 << 20},
        {"heads": 3},
        {"head_width": 15},
        {"norm_epsilon": 0.0},
        {"rope_base": float("nan")},
        {"embedding_scale": float("inf")},
        {"attention_cap": -1.0},
        {"rope_width": 18},
        {"rope_factors": (1.0,) * 7},
        {"rope_factors": (1.0,) * 7 + (0.0,)},
        {"windows": (8, 0)},
        {"windows": (8, 0, 8, -1)},
        {"experts": 8},
        {"experts": 2, "experts_used": 3},
    ],
    ids=str,
)
def test_impossible_shapes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadModelFile, match=next(iter(change))):
        replace(SHAPE, **change)


def test_numbers_a_model_does_not_have_leave_no_trace_in_its_id() -> None:
    assert "windows" not in SHAPE.plain()
    assert SHAPE.plain()["tied_head"] is True
    sliding = replace(SHAPE, windows=(8, 0, 8, 0))
    assert canonical(sliding.plain()["windows"]) == "[8,0,8,0]"


def test_layers_may_differ() -> None:
    shape = replace(SHAPE, windows=(8, 8, 0, 8), sliding_rope_base=100.0, rope_factors=(2.0,) * 8)
    assert [shape.window(layer) for layer in range(4)] == [8, 8, 0, 8]
    assert shape.rope(0) == Rope(16, 100.0, True)
    assert shape.rope(2) == Rope(16, 10_000.0, True, (2.0,) * 8)
    assert shape.sorts() == (shape.single(0), shape.single(2))
    assert [sort.windows for sort in shape.sorts()] == [(8,), (0,)]
    assert SHAPE.sorts() == (SHAPE.single(0),)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_file_has_the_parts_of_each_layer(architecture: str) -> None:
    shape = replace(SHAPE, architecture=architecture, tied_head=False)
    parts, tensors = layer_parts(shape), dict(all_tensors(shape))
    assert len(tensors) == 3 + 4 * len(parts)
    assert tensors["blk.3.attn_output.weight"] == (64, 64)


@pytest.mark.parametrize("kind", ["linear", "llama3", "yarn"])
def test_factors_equal_those_of_transformers(kind: str) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    more = {
        "linear": {},
        "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "yarn": {"beta_fast": 32.0, "beta_slow": 1.0},
    }[kind]
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        max_position_embeddings=32768,
        rope_parameters={
            "rope_type": kind,
            "rope_theta": 1e5,
            "factor": 8.0,
            "original_max_position_embeddings": 4096,
            **more,
        },
    )
    wanted, magnitude = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    factors = {
        "linear": lambda: linear_factors(128, 8.0),
        "llama3": lambda: llama3_factors(128, 1e5, factor=8.0, low=1.0, high=4.0, original=4096),
        "yarn": lambda: yarn_factors(128, 1e5, factor=8.0, original=4096),
    }[kind]()
    assert np.allclose(plain_frequencies(128, 1e5) / factors, wanted.numpy(), rtol=1e-6)
    assert magnitude == pytest.approx(yarn_magnitude(8.0) if kind == "yarn" else 1.0)
