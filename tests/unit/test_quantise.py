"""Quantising: ggml's bytes, llama.cpp's choice of types."""

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

from hearthring.protocol.errors import BadModelFile, BadOption
from hearthring.shards.quantise import (
    TYPES,
    file_type,
    known_type,
    pack,
    packed_bytes,
    tensor_type,
)

Kind = GGMLQuantizationType
ERRORS = {  # root mean square of the error on normal values, and a fifth
    **{Kind.F32: 0.0, Kind.F16: 3e-4, Kind.BF16: 2.1e-3, Kind.Q8_0: 0.008, Kind.Q6_K: 0.025},
    **{Kind.Q5_K: 0.045, Kind.Q5_1: 0.055, Kind.Q5_0: 0.055, Kind.Q4_K: 0.09, Kind.Q4_1: 0.11},
    **{Kind.Q4_0: 0.12, Kind.Q3_K: 0.2, Kind.Q2_K: 0.36},
}


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.name)
def test_packed_values_are_near_and_rows_independent(kind: GGMLQuantizationType) -> None:
    values = np.random.default_rng(0).standard_normal((65, 512)).astype(np.float32)
    packed = pack(kind, values)
    assert len(packed) == packed_bytes(kind, values.shape)
    found = dequantize(packed.reshape(65, -1), kind).reshape(values.shape)
    assert np.sqrt(np.mean((found - values) ** 2)) <= ERRORS[kind]
    assert np.array_equal(packed.reshape(65, -1)[40:], pack(kind, values[40:]).reshape(25, -1))


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q5_1, Kind.Q8_0, Kind.BF16])
def test_bytes_are_those_of_the_gguf_package(kind: GGMLQuantizationType) -> None:
    values = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
    theirs = quantize(values, kind).view(np.uint8).reshape(-1)
    assert np.mean(pack(kind, values) != theirs) < 0.02  # they round halves differently


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.Q4_K])
def test_values_that_arent_finite_are_refused(kind: GGMLQuantizationType, bad: float) -> None:
    values = np.zeros((2, 256), np.float32)
    values[1, 7] = bad
    with pytest.raises(BadModelFile, match=r"tensor 'w'.*finite"):
        pack(kind, values, "w")


def test_a_value_beyond_f16_names_the_mend() -> None:
    with pytest.raises(BadModelFile, match="BF16"):
        pack(Kind.F16, np.full((1, 32), 1e5, np.float32), "w")


@pytest.mark.parametrize(
    ("wanted", "name", "shape", "tied", "kind"),
    [
        ("Q4_0", "blk.0.attn_norm.weight", (576,), True, Kind.F32),
        ("Q4_0", "blk.0.attn_q.bias", (576,), True, Kind.F32),
        ("Q4_0", "blk.0.ffn_gate_inp.weight", (8, 512), True, Kind.F32),
        ("Q4_0", "blk.0.attn_q.weight", (576, 576), True, Kind.Q4_0),
        ("Q4_0", "token_embd.weight", (1000, 512), True, Kind.Q6_K),
        ("Q4_0", "token_embd.weight", (1000, 576), True, Kind.Q8_0),
        ("Q4_0", "token_embd.weight", (1000, 512), False, Kind.Q4_0),
        ("Q4_0", "output.weight", (1000, 512), False, Kind.Q6_K),
        ("Q8_0", "output.weight", (1000, 512), False, Kind.Q8_0),
        ("F16", "output.weight", (1000, 512), False, Kind.F16),
        ("Q4_K", "blk.0.ffn_down.weight", (576, 1536), True, Kind.Q4_K),
        ("Q4_K", "blk.0.ffn_up.weight", (1536, 576), True, Kind.Q5_0),
        ("Q2_K", "blk.0.ffn_up.weight", (1536, 576), True, Kind.Q4_0),
        ("Q6_K", "blk.0.ffn_up.weight", (1536, 576), True, Kind.Q8_0),
        ("Q4_0", "blk.0.ffn_up.weight", (1536, 20), True, Kind.F16),
        ("Q4_K_M", "blk.0.attn_v.weight", (512, 512), True, Kind.Q6_K),
        ("Q4_K_M", "blk.1.ffn_down.weight", (512, 512), True, Kind.Q4_K),
        ("Q4_K_M", "blk.3.ffn_down_exps.weight", (4, 512, 512), True, Kind.Q6_K),
        ("Q4_K_M", "blk.0.attn_q.weight", (512, 512), True, Kind.Q4_K),
    ],
)
def test_types_are_llama_cpps(
    wanted: str, name: str, shape: tuple[int, ...], tied: bool, kind: GGMLQuantizationType
) -> None:
    found = tensor_type(wanted, name, shape, 8, tied)
    assert found == kind
    assert shape[-1] % GGML_QUANT_SIZES[found][0] == 0


def test_names_of_types() -> None:
    assert [known_type(name.lower()) for name in TYPES] == list(TYPES)
    assert len({file_type(name) for name in TYPES}) == len(TYPES)
    with pytest.raises(BadOption, match=r"quantise: there is no 'Q9'.*Q4_K_M"):
        known_type("Q9")
