"""Embedding, norm and head in torch: the numbers of numpy, and the same bits in any company."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from hearthring.protocol.errors import BadOption, BadShape, ResidualOverflow
from hearthring.protocol.tensors import Residual, pack, unpack
from hearthring.shards.shape import Shape
from hearthring.shards.torch_ends import TorchEnds

SHAPE = Shape("llama", 1, 64, 4, 2, 16, 128, 160, 512, 1e-5, 10_000.0)
Q8 = GGMLQuantizationType.Q8_0


pytestmark = pytest.mark.usefixtures("torch_threads")


class File:
    """What ``TorchEnds.open`` needs of a model file."""

    def __init__(self, shape=SHAPE):
        self.shape, draw = shape, np.random.default_rng(0)
        embedding = draw.standard_normal((shape.vocabulary, shape.width)).astype(np.float32)
        self.packed = quantize(embedding, Q8)
        self.tensors = {
            "token_embd.weight": dequantize(self.packed, Q8),
            "output.weight": embedding * np.float32(0.5),
            "output_norm.weight": draw.uniform(0.5, 1.5, shape.width).astype(np.float32),
        }

    def dequantised(self, name):
        return self.tensors[name]

    def raw(self, name):
        assert name == "token_embd.weight"
        return int(Q8), (self.shape.vocabulary, self.shape.width), self.packed.reshape(-1)


@pytest.mark.parametrize("residual", list(Residual))
def test_embeddings_are_rows_rounded_to_the_residual_type(residual):
    file = File()
    states = TorchEnds.open(file, residual).embed([3, 159, 3, 0])
    exact = file.tensors["token_embd.weight"][[3, 159, 3, 0]]
    assert np.array_equal(states, unpack(pack(exact, residual), 4, 64, residual))
    assert states.dtype == np.float32
    assert TorchEnds.open(file, residual).embed([]).shape == (0, 64)


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_close_to_float64(tied):
    shape = Shape("llama", 1, 64, 4, 2, 16, 128, 160, 512, 1e-5, 10_000.0, tied_head=tied)
    file = File(shape)
    ends = TorchEnds.open(file)
    states = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)
    wide = states.astype(np.float64)
    wanted = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5)
    wanted *= file.tensors["output_norm.weight"]
    normed = ends.norm(states)
    np.testing.assert_allclose(normed, wanted, rtol=1e-6)
    head = file.tensors["token_embd.weight" if tied else "output.weight"]
    np.testing.assert_allclose(ends.logits(normed), wanted @ head.T, rtol=1e-4, atol=1e-5)


def test_a_row_has_the_same_bits_in_any_company_and_on_any_threads():
    file, found = File(), []
    states = np.random.default_rng(1).standard_normal((9, 64)).astype(np.float32)
    for threads in (1, 2):
        ends = TorchEnds.open(file, threads=threads)
        normed = ends.norm(states)
        found += [normed, np.concatenate([ends.norm(row[None]) for row in states])]
        together, alone = ends.logits(normed), np.stack([ends.logits(row) for row in normed])
        assert np.array_equal(together, alone)
        found.append(together[:, :64].copy())
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[3])
    assert np.array_equal(found[1], found[4])
    assert np.array_equal(found[2], found[5])


def test_classes():
    first, second = (TorchEnds.open(File(), Residual.BF16, threads).numerics for threads in (1, 2))
    assert first == second
    assert first.fingerprint != TorchEnds.open(File(), Residual.FP32).numerics.fingerprint


def test_refusals():
    file = File()
    ends = TorchEnds.open(file, Residual.FP16)
    for ids in ([160], [0, -1]):
        with pytest.raises(BadOption):
            ends.embed(ids)
    for states in (np.zeros((1, 63), np.float32), np.zeros(64, np.float32)):
        with pytest.raises(BadShape):
            ends.norm(states)
    with pytest.raises(BadShape):
        ends.logits(np.zeros((2, 3), np.float32))
    wide = np.full((1, 64), 1e5, np.float32)
    with pytest.raises(ResidualOverflow, match="bf16"):
        TorchEnds(file.dequantised, lambda ids: wide, SHAPE, Residual.FP16).embed([0])
