"""What is written into a model file's header is what is read from it."""

import mmap
from math import inf
from pathlib import Path

import numpy as np
import pytest

from hearthring.shards.gguf_header import Value, read_header
from hearthring.shards.gguf_output import write_gguf

VALUES: dict[str, Value] = {
    "a count": 7,
    "a large count": 1 << 40,
    "a larger one": (1 << 64) - 1,
    "below zero": -5,
    "a number": 0.5,
    "a number beyond float32": 1e300,
    "no number": inf,
    "a word": "word",
    "yes": True,
    "words": ("a", "b"),
}


@pytest.mark.parametrize("key", VALUES)
def test_values_come_back(tmp_path: Path, key: str) -> None:
    metadata: dict[str, Value] = {"general.architecture": "llama", key: VALUES[key]}
    path = write_gguf(tmp_path, metadata, [], lambda done, total: None)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        assert read_header(data).fields[key] == VALUES[key]


def test_numbers_come_back(tmp_path: Path) -> None:
    numbers = np.array([1, 2, (1 << 64) - 1], np.uint64)
    metadata: dict[str, Value] = {"general.architecture": "llama", "numbers": numbers}
    path = write_gguf(tmp_path, metadata, [], lambda done, total: None)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        assert np.array_equal(read_header(data).fields["numbers"], numbers)
