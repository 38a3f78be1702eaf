"""Safetensors files: what is read is what was saved, and what can't be is one named error."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hearthring.protocol.errors import BadModelFile
from hearthring.shards.safetensors_file import SafetensorsFile, Stored, refuse_pickle
from tests.weight_files import read_all, with_header


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_are_those_that_were_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "a.safetensors"
    values = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    save_file({"w": values, "ids": torch.arange(3)}, path)
    opened = SafetensorsFile(path)
    assert opened.tensors["w"].shape == (7, 5)
    assert opened.tensors["ids"] == Stored("I64", (3,))
    found = opened.rows("w", 2, 6)
    assert found.dtype == np.float32
    assert np.array_equal(found, values[2:6].float().numpy())
    with pytest.raises(BadModelFile, match="'ids' is of type I64"):
        opened.rows("ids", 0, 3)
    with pytest.raises(BadModelFile, match="no tensor 'v'"):
        opened.rows("v", 0, 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        (10 << 30).to_bytes(8, "little") + b"{}",
        ((1 << 64) - 1).to_bytes(8, "little") + b"{}",
        with_header(b"[" * 100_000),
        with_header(b'{"a":' * 50_000),
        with_header(b"\xff{}"),
        with_header({"a": entry("F32", [16], 0, 60)}),
        with_header({"a": entry("F32", [8], 0, 32), "b": entry("F32", [8], 16, 48)}),
        with_header({"a": entry("F32", [8], 0, 32), "b": entry("F32", [4], 48, 64)}),
        with_header({"a": entry("F32", [1 << 40, 1 << 40], 0, 64)}),
        with_header({"a": entry("F32", [1 << 20], 0, 4 << 20)}),
        with_header({"a": entry("F16", [16], 0, 64)}),
        with_header({"a": entry("Q4_0", [16], 0, 64)}),
        with_header({"a": entry("F32", [1] * 9 + [16], 0, 64)}),
        with_header({"a\n": entry("F32", [16], 0, 64)}),
        with_header({"": entry("F32", [16], 0, 64)}),
    ],
)
def test_a_lie_in_the_header_is_a_named_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(BadModelFile, match=r"bad\.safetensors: ") as caught:
        read_all(path)
    assert "\n" not in str(caught.value)


def test_a_pipe_isnt_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(BadModelFile, match="isn't a regular file"):
        SafetensorsFile(tmp_path / "pipe.safetensors")
    with pytest.raises(BadModelFile, match="No such file"):
        SafetensorsFile(tmp_path / "absent.safetensors")


def test_pickles_are_refused_with_the_reason() -> None:
    assert "run code" in str(refuse_pickle(Path("pytorch_model.bin")))
