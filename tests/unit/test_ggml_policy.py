"""The kernels a user may choose: whichever they are, a row keeps its bits; and they are right."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from hearthring.protocol.errors import BadOption
from hearthring.protocol.tensors import Residual
from hearthring.shards import ggml_products
from hearthring.shards.engine import Segment
from hearthring.shards.families import layer_parts
from hearthring.shards.fingerprint import fixed_weight, uniform
from hearthring.shards.ggml_check import FixedWeights
from hearthring.shards.ggml_engine import GgmlEngine
from hearthring.shards.ggml_library import load_ggml
from hearthring.shards.ggml_policy import Policy, policy_of
from hearthring.shards.ggml_weights import Experts
from hearthring.shards.ggml_wide import BLOCK, Blas, arrange, cut
from hearthring.shards.shape import Shape
from tests.sessions import GENERATED, PROMPT, Session

SHAPE = Shape("llama", 1, 256, 4, 2, 64, 512, 512, 1024, 1e-5, 1e4)
STATES = uniform(3, (400, SHAPE.width))
FIRST = ("attn_q", "ffn_gate")
POLICIES = {
    "fast": Policy(prompt="fast"),
    "q8": Policy(kv="q8_0"),
    "fast-q8": Policy(prompt="fast", kv="q8_0"),
    "packed": Policy(repack=True),
    "fast-packed": Policy(prompt="fast", repack=True),
}


@cache
def weights(kind, shape=SHAPE):
    kinds = {
        part: GGMLQuantizationType[kind if len(size) == 2 else "F32"]
        for part, size in layer_parts(shape).items()
    }
    return FixedWeights(load_ggml(), lambda name: fixed_weight(name, shape), shape, kinds)


def engine(kind, policy, threads=1, residual=Residual.FP32):
    return GgmlEngine(weights(kind), 0, 1, residual, threads, policy=policy, check=False)


def plain(e):
    session = Session(e, STATES, 420)
    session.chain(1, 300)
    session.chain(300, 340, GENERATED, 1)
    session.chain(340, 380)
    session.chain(380, 400, GENERATED, 1)
    return session.out


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K"])
@pytest.mark.parametrize("threads", [1, 2])
def test_packed_matrices_are_joined_and_keep_bits(kind, threads):
    together, apart = (engine(kind, POLICIES["packed"], threads) for _ in range(2))
    assert set(together._model.weights.joined) == {f"blk.0.{part}.weight" for part in FIRST}
    apart._model.weights.joined.clear()
    assert plain(together) == plain(apart)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["F16", "Q4_0", "Q4_1", "Q4_K"])
def test_every_schedule_gives_the_same_bits(kind, policy):
    one, two = (engine(kind, POLICIES[policy], threads) for threads in (1, 2))
    wanted = plain(one)
    other = Session(two, STATES, 700)
    other.chain(1, 8, PROMPT, 1)
    other.chain(8, 70, PROMPT, 11)
    other.chain(70, 300, PROMPT, 97)
    for low, high in ((300, 301), (301, 304), (304, 310), (310, 340)):
        other.chain(low, high, GENERATED)
    other.chain(340, 380, PROMPT, 7)
    other.chain(380, 400, GENERATED, 5)
    assert other.out == wanted

    # Two sessions, one in mid-prompt while the other generates.
    first, second = Session(one, STATES, 500), Session(one, STATES, 600)
    first.chain(1, 290)
    steps = [
        ([(i, i - 1, PROMPT) for i in range(290, 300)], [(i, i - 1, PROMPT) for i in range(1, 76)]),
        ([(i, i - 1, GENERATED) for i in range(300, 303)], [(76, 75, PROMPT), (77, 76, PROMPT)]),
        ([(303, 302, GENERATED)], [(i, i - 1, PROMPT) for i in range(78, 300)]),
    ]
    for ours, theirs in steps:
        segments = first.place(ours), second.place(theirs)
        ids = [row[0] for row in (*ours, *theirs)]
        out, _ = one.forward(segments, STATES[ids])
        first.keep(ours, out[: len(ours)])
        second.keep(theirs, out[len(ours) :])
    for session in (first, second):
        assert {i: wanted[i] for i in session.out} == session.out


@pytest.mark.parametrize("kind", ["Q4_1", "Q4_K"])
def test_kept_float32_weights_change_speed_alone(kind):
    everything = plain(engine(kind, Policy(prompt="fast", prompt_memory=1 << 30)))
    some = plain(engine(kind, Policy(prompt="fast", prompt_memory=4 * 256 * 256), 2))
    assert everything == some == plain(engine(kind, Policy(prompt="fast")))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q4_K", "F16"])
@pytest.mark.parametrize("policy", [*POLICIES, "inexact"])
def test_close_to_the_plain_kernels(kind, policy):
    chosen = POLICIES.get(policy, Policy(exact=False))
    outs = []
    for p in (Policy(), chosen):
        e = engine(kind, p, 2)
        session = Session(e, STATES, 400)
        session.chain(1, 100)
        session.chain(100, 120, GENERATED)
        outs.append(np.stack([np.frombuffer(row, np.float32) for row in session.out.values()]))
    moved = np.linalg.norm(outs[0] - STATES[1:120])
    assert np.linalg.norm(outs[1] - outs[0]) < 0.03 * moved


@pytest.mark.parametrize("policy", POLICIES)
def test_the_self_test_covers_every_policy(policy):
    e = GgmlEngine(weights("Q4_0"), 0, 1, Residual.BF16, policy=POLICIES[policy])
    cache = e.new_cache(8)
    assert e.forward((Segment(cache, ()),), STATES[:0])[0].shape == (0, 256)


def test_classes_differ_where_bits_do():
    found = {name: engine("Q4_1", policy).numerics for name, policy in POLICIES.items()}
    found["low"] = engine("Q4_1", Policy()).numerics
    # Q4_1 has no interleaved layout, so packing changes its name only.
    kept = ("low", "fast", "q8", "fast-q8")
    assert len({found[name].fingerprint for name in kept}) == len(kept)
    assert len({numerics.name for numerics in found.values()}) == len(found)
    for name, numerics in found.items():
        assert policy_of(numerics.name) == POLICIES.get(name, Policy())
    again = engine("Q4_1", Policy(prompt="fast", prompt_memory=1 << 20), 2).numerics
    assert again == found["fast"]


def test_an_inexact_class_equals_nobodys():
    one, two = (engine("Q4_1", Policy(exact=False)).numerics for _ in range(2))
    assert one.name == two.name
    assert "inexact" in one.name
    assert one.fingerprint != two.fingerprint


def test_heads_that_do_not_fit_q8_are_refused():
    narrow = weights("F32", replace(SHAPE, heads=16, kv_heads=8, head_width=16))
    with pytest.raises(BadOption, match="q8_0"):
        GgmlEngine(narrow, 0, 1, policy=Policy(kv="q8_0"), check=False)


def test_rows_keep_their_index_in_the_operand():
    layout = arrange([(0, 12), (5, 3), (23, 2)], 12)
    assert layout.spans == ((0, 12, 0), (12, 3, 17), (15, 2, 35))
    assert layout.rows == 48
    assert not layout.plain
    assert arrange([(48, 24), (0, 12)], 12).plain
    shared = arrange([(30, 1), (13, 2), (42, 1), (0, 25)], 12)
    assert shared.spans == ((0, 1, 6), (1, 2, 1), (3, 1, 18), (4, 25, 24))
    assert shared.rows == 60
    turned = arrange([(6, 6), (0, 6)], 12)
    assert (turned.rows, turned.plain) == (12, False)


@pytest.mark.parametrize("outer", [1, 2, 64, 192, 576, 1000, 8192])
def test_pieces_cover_a_matrix(outer):
    pieces = cut(outer)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == outer
    assert all(low < high for low, high in pieces)
    assert [high for _, high in pieces[:-1]] == [low for low, _ in pieces[1:]]


@pytest.mark.parametrize("turned", [True, False])
def test_weights_that_are_kept_change_no_bits(monkeypatch, turned):
    wanted = plain(engine("Q4_1", Policy(prompt="fast")))
    choose = Blas.__init__

    def chosen(self, sorts):
        choose(self, sorts)
        self.turned = self.turned and turned

    monkeypatch.setattr(Blas, "__init__", chosen)
    assert plain(engine("Q4_1", Policy(prompt="fast", prompt_memory=1 << 30))) == wanted


def test_a_blas_that_heeds_shapes_gets_whole_blocks(monkeypatch):
    """Group by group is a liberty; one block at a time gives the same bits."""
    e = engine("Q4_1", Policy(prompt="fast"))
    wanted = plain(e)
    monkeypatch.setattr(Blas, "__init__", _wary)
    assert plain(engine("Q4_1", Policy(prompt="fast"), 2)) == wanted


def test_ctrl_c_in_a_product_ends_the_pass(monkeypatch):
    """C knows no exceptions: one that is lost leaves a result that nobody computed."""
    e = engine("Q4_1", Policy(prompt="fast"))

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(e._model.wide[1], "piece", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plain(e)


def test_experts_of_other_outputs_are_tried_anew(monkeypatch):
    tried = []
    monkeypatch.setattr(ggml_products, "_known_experts", {})
    monkeypatch.setattr(ggml_products, "_try_experts", lambda _, e, __: tried.append(e.probed) or 1)
    for probed in (256, 264, 256):
        ggml_products.try_experts(load_ggml(), Experts(0, 2, 64, 0, probed, 0), 1)
    assert tried == [256, 264]


def _wary(self, sorts):
    from threadpoolctl import ThreadpoolController

    self._pools, self.name = ThreadpoolController(), "blas"
    self.group, self.whole, self.turned = BLOCK, False, False
