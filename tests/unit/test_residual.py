"""The residual type: fp16 where it is safe, bf16 where it isn't, fp32 for the reference."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from hearthring.protocol.errors import BadModelFile
from hearthring.protocol.tensors import Residual
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.manifest import Manifest, build, quiet
from hearthring.shards.residual import LIMIT, largest_residual, residual_type
from hearthring.shards.store import ModelEntry
from tests.tiny import write_tiny_gguf


def scaled(path: Path, factor: float) -> GgufFile:
    """A tiny Q8_0 model whose first layer adds so many times as much."""
    write_tiny_gguf(path, quant="Q8_0", layers=2)
    for tensor in GGUFReader(path, "r+").tensors:
        if tensor.name == "blk.0.ffn_norm.weight":
            values = tensor.data
            values *= np.float32(factor)
    return GgufFile(path)


def test_the_largest_residual_decides(tmp_path: Path) -> None:
    small = scaled(tmp_path / "small.gguf", 1.0)
    large = scaled(tmp_path / "large.gguf", 300.0)
    assert 0 < largest_residual(small, quiet) < LIMIT < largest_residual(large, quiet)
    assert residual_type(small, quiet) is Residual.FP16
    assert residual_type(large, quiet) is Residual.BF16
    manifest = build(large)
    assert Manifest.from_json(manifest.to_json()).residual is Residual.BF16
    with pytest.raises(BadModelFile, match="doesn't parse"):
        Manifest.from_json(manifest.to_json().replace('"bf16"', '"fp8"'))


def test_weights_in_fp32_are_the_reference(tiny_gguf: Path) -> None:
    assert residual_type(GgufFile(tiny_gguf), quiet) is Residual.FP32


def test_residuals_that_arent_finite_are_a_named_error(tmp_path: Path) -> None:
    broken = scaled(tmp_path / "broken.gguf", float("inf"))
    with pytest.raises(BadModelFile, match=r"broken\.gguf: its weights give"):
        build(broken)


@pytest.mark.model
def test_smollm2_needs_bf16(smollm2: ModelEntry) -> None:
    assert 20_000 < largest_residual(smollm2.open(), quiet) < 30_000
    assert smollm2.manifest.residual is Residual.BF16
