"""Layers in plain numpy are those of the engines, for every family; broken kernels never serve."""

import numpy as np
import pytest
import torch

from hearthring.protocol.errors import EngineUnavailable
from hearthring.protocol.tensors import Residual
from hearthring.shards import torch_fast_layer
from hearthring.shards.engine import EngineRow, Kind, Segment
from hearthring.shards.engines import EngineOptions, load_engine
from hearthring.shards.ggml_check import WideWeights
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.layer_reference import reference_layer
from hearthring.shards.self_check import FP32, check_layer
from hearthring.shards.torch_engine import TorchEngine
from hearthring.shards.torch_fast import FastTorchEngine
from tests.shapes import CPU, SHAPES, apart, engine, states, weights
from tests.tiny import write_tiny_gguf

pytestmark = pytest.mark.usefixtures("torch_threads")


@pytest.mark.parametrize("name", SHAPES)
def test_plain_arithmetic_is_what_torch_computes(name: str) -> None:
    shape, x = SHAPES[name], states(12, SHAPES[name])
    paths = tuple(tuple(range(n + 1)) for n in range(12))
    wide = WideWeights(weights(shape).__getitem__, shape)
    for layer in range(shape.layers):
        e = engine(shape, layer, layer + 1)
        rows = tuple(EngineRow(Kind.PROMPT, p, p, np.array(path)) for p, path in enumerate(paths))
        out, _ = e.forward((Segment(e.new_cache(12), rows),), x)
        wanted = reference_layer(wide, layer, paths, x)
        assert apart(out - x, wanted - x) < 1e-5


@pytest.fixture
def file(tmp_path):
    return GgufFile(write_tiny_gguf(tmp_path / "tiny.gguf", quant="Q4_1"))


@pytest.mark.parametrize("kind", Residual)
def test_both_torch_engines_pass(file, kind: Residual) -> None:
    load_engine("torch", file, (1, 3), kind, 1)
    for compute in ("fp32", "bf16", "fp16"):
        options = EngineOptions(exact=False, compute=compute)
        load_engine("torch", file, (1, 3), kind, 1, options=options)


def test_a_broken_kernel_of_the_reference_never_serves(file, monkeypatch) -> None:
    """As of processors whose products saturate: everything is right but one product in a layer."""
    honest = torch.mv

    def saturated(matrix, vector, *, out):
        return honest(matrix, vector, out=out).clamp_(-0.5, 0.5)

    monkeypatch.setattr(torch, "mv", saturated)
    with pytest.raises(EngineUnavailable, match="torch gets layer 0 wrong"):
        load_engine("torch", file, (0, 4), None, 1)


def test_a_broken_kernel_of_the_fast_engine_never_serves(file, monkeypatch) -> None:
    honest = torch_fast_layer.attended

    def unscaled(query, k, v, mask, scale, cap):
        return honest(query, k, v, mask, 1.0, cap)

    monkeypatch.setattr("hearthring.shards.torch_fast.attended", unscaled)
    for compute in ("fp32", "bf16"):
        options = EngineOptions(exact=False, compute=compute)
        with pytest.raises(EngineUnavailable, match="torch gets layer 2 wrong"):
            load_engine("torch", file, (2, 4), None, 1, options=options)


def test_rounding_is_checked_too() -> None:
    shape = SHAPES["llama"]
    load = weights(shape).__getitem__

    def truncating(kind: Residual):
        one = TorchEngine(load, shape, 0, 1, Residual.FP32)
        if kind is Residual.BF16:
            inner = one.forward
            one.forward = lambda *a: (  # type: ignore[method-assign]
                (inner(*a)[0].view(np.uint32) & 0xFFFF0000).view(np.float32),
                {},
            )
        return one

    wide = WideWeights(load, shape)
    with pytest.raises(EngineUnavailable):
        check_layer(wide, 0, Residual.BF16, truncating, "torch", FP32)
    check_layer(wide, 0, Residual.FP32, truncating, "torch", FP32)
    check_layer(
        wide,
        0,
        Residual.BF16,
        lambda kind: FastTorchEngine(load, shape, 0, 1, kind, place=CPU),
        "torch",
        FP32,
    )
