"""Tiny files of several weight types, and ggml engines on them."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hearthring.protocol.tensors import F32, Residual, pack, unpack
from hearthring.shards.ggml_engine import GgmlEngine
from hearthring.shards.gguf_file import GgufFile
from tests.tiny import WIDTH, write_tiny_gguf

LAYERS = 4
TYPES = ("F32", "Q4_1", "Q8_0")


@cache
def _folder() -> "TemporaryDirectory[str]":
    return TemporaryDirectory(prefix="hearthring-")  # ends with the process


@cache
def tiny_file(kind: str) -> GgufFile:
    """The tiny model with matrices of a type, written once per process."""
    return GgufFile(write_tiny_gguf(Path(_folder().name) / kind, quant=kind))


def engine(
    kind: str,
    start: int = 0,
    end: int = LAYERS,
    residual: Residual = Residual.BF16,
    threads: int = 1,
) -> GgmlEngine:
    """An engine on that file."""
    return GgmlEngine(tiny_file(kind), start, end, residual, threads, check=False)


def inputs(count: int, residual: Residual = Residual.BF16, seed: int = 1) -> F32:
    """Random states of the tiny model's width, in a residual type."""
    wide = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    return unpack(pack(wide, residual), count, WIDTH, residual)
