"""Embedding, norm and head in ggml: the numbers of numpy, and the same bits in any company."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from hearthring.protocol.errors import BadOption, BadShape, EngineUnavailable, ResidualOverflow
from hearthring.protocol.tensors import Residual, pack, unpack
from hearthring.shards import ggml_ends
from hearthring.shards.ends import open_ends
from hearthring.shards.families import EMBEDDING, HEAD, NORM
from hearthring.shards.ggml_check import quantised
from hearthring.shards.ggml_ends import GgmlEnds
from hearthring.shards.ggml_library import load_ggml
from hearthring.shards.shape import Shape

WIDTH, VOCABULARY = 256, 1100
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1", "Q4_K", "Q6_K")


class File:
    """What ends need of a model file."""

    def __init__(self, kind="Q8_0", head=None, loud=1.0, **more):
        tied = head is None
        sizes = ("llama", 1, WIDTH, 4, 2, 64, 512, VOCABULARY, 512, 1e-5, 10_000.0)
        self.shape = Shape(*sizes, tied_head=tied, **more)
        draw = np.random.default_rng(0)
        embedding = draw.standard_normal((VOCABULARY, WIDTH)).astype(np.float32) * loud
        self.values = {
            EMBEDDING: embedding,
            HEAD: embedding[::-1] * np.float32(0.5),
            NORM: draw.uniform(0.5, 1.5, WIDTH).astype(np.float32),
        }
        self.kinds = {EMBEDDING: kind, HEAD: head or kind, NORM: "F32"}
        self.bytes = {
            name: quantised(load_ggml(), self.kind(name), values)
            for name, values in self.values.items()
        }

    def kind(self, name):
        return int(GGMLQuantizationType[self.kinds[name]])

    def raw(self, name):
        return self.kind(name), self.values[name].shape, self.bytes[name]

    def dequantised(self, name):
        kind, shape, data = self.raw(name)
        return dequantize(data, GGMLQuantizationType(kind)).reshape(shape)


@pytest.mark.parametrize("residual", list(Residual))
@pytest.mark.parametrize("kind", TYPES)
def test_embeddings_are_rows_rounded_to_the_residual_type(kind, residual):
    file, ids = File(kind), [3, VOCABULARY - 1, 3, 0]
    states = GgmlEnds(file, residual).embed(ids)
    exact = file.dequantised(EMBEDDING)[ids].astype(np.float32)
    wanted = unpack(pack(exact, residual), 4, WIDTH, residual)
    # K types are widened in another order of the same few operations.
    np.testing.assert_allclose(states, wanted, rtol=0 if not kind.endswith("K") else 0.01)
    assert states.dtype == np.float32
    assert GgmlEnds(file, residual).embed([]).shape == (0, WIDTH)


@pytest.mark.parametrize(("kind", "head"), [("Q8_0", None), ("Q4_K", "Q6_K"), ("F16", "Q4_0")])
@pytest.mark.parametrize("cap", [0.0, 30.0])
def test_logits_are_close_to_float64(kind, head, cap):
    file = File(kind, head, final_cap=cap, embedding_scale=16.0)
    ends = GgmlEnds(file, Residual.FP32)
    assert np.array_equal(ends.embed([5]), File(kind, head).dequantised(EMBEDDING)[[5]] * 16.0)
    states = np.random.default_rng(1).standard_normal((5, WIDTH)).astype(np.float32)
    wide = states.astype(np.float64)
    wanted = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5) * file.values[NORM]
    np.testing.assert_allclose(ends.norm(states), wanted, rtol=1e-6)
    wanted = wanted @ file.dequantised(HEAD if head else EMBEDDING).T.astype(np.float64)
    if cap:
        wanted = cap * np.tanh(wanted / cap)
    found = ends.logits(ends.norm(states))
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    assert np.abs(found).max() <= (cap or np.inf)


@pytest.mark.parametrize("kind", TYPES)
def test_a_row_has_the_same_bits_in_any_company_and_on_any_threads(kind):
    file, found = File("Q8_0", kind), []
    states = np.random.default_rng(1).standard_normal((37, WIDTH)).astype(np.float32)
    for threads in (1, 2, 3):
        ends = GgmlEnds(file, Residual.FP32, threads)
        for sizes in ([37], [1] * 37, [16, 16, 5], [2, 3, 4, 5, 6, 7, 8, 2]):
            parts = np.split(states, np.cumsum(sizes)[:-1])
            normed = [ends.norm(part) for part in parts]
            found.append((np.concatenate(normed), np.concatenate([*map(ends.logits, normed)])))
        assert np.array_equal(ends.logits(found[0][0][3]), found[0][1][3])
    for normed, logits in found[1:]:
        assert np.array_equal(normed, found[0][0])
        assert np.array_equal(logits, found[0][1])


def test_results_are_the_callers_own():
    ends, states = GgmlEnds(File()), np.ones((2, WIDTH), np.float32)
    first = ends.norm(states), ends.logits(states)
    kept = [array.copy() for array in first]
    ends.norm(-2 * states), ends.logits(-2 * states)
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))
    assert ends.logits(states[:0]).shape == (0, VOCABULARY)


def test_classes():
    first, second = (GgmlEnds(File(), Residual.BF16, threads).numerics for threads in (1, 2))
    assert first == second
    assert first.name.endswith("/q8_0+q8_0/ends/bf16")
    others = [GgmlEnds(File(), Residual.FP32), GgmlEnds(File(head="Q6_K"), Residual.BF16)]
    assert len({first.fingerprint, *(other.numerics.fingerprint for other in others)}) == 3


def test_refusals():
    ends = GgmlEnds(File(), Residual.FP16)
    for ids in ([VOCABULARY], [0, -1]):
        with pytest.raises(BadOption):
            ends.embed(ids)
    for states in (np.zeros((1, WIDTH - 1), np.float32), np.zeros(WIDTH, np.float32)):
        with pytest.raises(BadShape):
            ends.norm(states)
    with pytest.raises(BadShape):
        ends.logits(np.zeros((2, 3), np.float32))
    with pytest.raises(ResidualOverflow, match="bf16"):
        GgmlEnds(File(loud=1e6), Residual.FP16).embed([0])
    file = File()
    file.kinds[EMBEDDING] = "IQ2_XXS"
    with pytest.raises(EngineUnavailable, match="torch"):
        GgmlEnds(file)


def test_quantised_heads_go_through_ggml_and_others_through_torch(monkeypatch):
    said = []

    def name(file, wish="auto", residual=Residual.BF16):
        ends = open_ends(wish, file, residual, 1, said.append)
        return ends.numerics.name.split("-")[0]

    assert name(File()) == "ggml"
    assert name(File("Q8_0", "F16")) == name(File(), "torch") == "torch"
    assert name(File("F16"), "ggml") == "ggml"
    assert name(File(), residual=Residual.FP32) == "torch"  # the reference
    with pytest.raises(BadOption):
        name(File(), "gpu")
    assert not said

    def broken(*_):
        raise EngineUnavailable("no library", field="engine")

    monkeypatch.setattr(ggml_ends, "load_ggml", broken)
    assert name(File()) == "torch"
    assert "no library" in said[0]
    with pytest.raises(EngineUnavailable):
        name(File(), "ggml")
