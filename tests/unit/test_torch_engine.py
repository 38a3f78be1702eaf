"""Rows keep their bits however they are batched, cut, placed and split; and they are right."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hearthring.protocol.errors import BadShape, LayersOutOfRange, OutOfSlots, ResidualOverflow
from hearthring.protocol.tensors import Residual, pack, unpack
from hearthring.shards.engine import EngineRow, Kind, Segment
from hearthring.shards.fingerprint import fingerprint, fixed_weight
from hearthring.shards.shape import Shape
from hearthring.shards.torch_engine import TorchEngine
from tests.keeping_bits import (
    check_company,
    check_cuts,
    check_dropped,
    check_threads,
    check_tree,
    check_windows,
)
from tests.sessions import GENERATED, PROMPT, Session

EVEN = Shape("llama", 4, 64, 4, 2, 16, 128, 300, 512, 1e-5, 10_000.0)
REAL = Shape("llama", 2, 576, 9, 3, 64, 1536, 300, 2048, 1e-5, 10_000.0)
ODD = Shape("llama", 3, 42, 6, 2, 10, 52, 300, 512, 1e-5, 10_000.0, interleaved_rope=False)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def weights(shape, seed=0):
    draw = np.random.default_rng(seed)
    queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    sizes = {
        "attn_norm": (shape.width,),
        "attn_q": (queries, shape.width),
        "attn_k": (keys, shape.width),
        "attn_v": (keys, shape.width),
        "attn_output": (shape.width, queries),
        "ffn_norm": (shape.width,),
        "ffn_gate": (shape.ffn, shape.width),
        "ffn_up": (shape.ffn, shape.width),
        "ffn_down": (shape.width, shape.ffn),
    }
    found = {}
    for layer in range(shape.layers):
        for part, size in sizes.items():
            noise = draw.standard_normal(size) * (0.1 if len(size) == 1 else size[1] ** -0.5)
            found[f"blk.{layer}.{part}.weight"] = (noise + (len(size) == 1)).astype(np.float32)
    return found


def engine(shape=EVEN, start=0, end=None, residual=Residual.BF16, threads=1):
    end = shape.layers if end is None else end
    return TorchEngine(weights(shape).__getitem__, shape, start, end, residual, threads)


def inputs(count, shape=EVEN, residual=Residual.BF16, seed=1):
    wide = np.random.default_rng(seed).standard_normal((count, shape.width)).astype(np.float32)
    return unpack(pack(wide, residual), count, shape.width, residual)


CASES = [(EVEN, Residual.BF16), (EVEN, Residual.FP16), (EVEN, Residual.FP32), (ODD, Residual.BF16)]


@pytest.mark.parametrize(("shape", "residual"), CASES)
@pytest.mark.parametrize("step", [1, 7, 32, 64, 100])
def test_the_cut_of_a_prompt_changes_no_bit(shape, residual, step):
    check_cuts(engine(shape, residual=residual), inputs(171, shape, residual), step)


@pytest.mark.parametrize(("shape", "residual"), CASES)
def test_windows_equal_the_whole(shape, residual):
    states = inputs(171, shape, residual)
    check_windows(lambda start, end: engine(shape, start, end, residual), shape.layers, states)


@pytest.mark.parametrize(("shape", "residual"), [*CASES, (REAL, Residual.FP32)])
def test_thread_count_changes_no_bit(shape, residual):
    """Small products are never shared out: only a real model's size tells."""
    states = inputs(162, shape, residual)
    check_threads(lambda t: engine(shape, residual=residual, threads=t), states)


@pytest.mark.parametrize("shape", [EVEN, ODD])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("prompt", [1, 70])
def test_a_tree_equals_each_of_its_branches(shape, threads, prompt):
    check_tree(engine(shape, threads=threads), inputs(prompt + 9, shape), prompt)


def test_prompts_may_branch_and_follow_an_answer():
    e, states = engine(), inputs(200)
    long = Session(e, states)
    long.chain(1, 30)
    long.chain(30, 40, GENERATED, 1)
    long.chain(40, 140, PROMPT)
    mixed = Session(e, states)
    rows = [(i, i - 1, GENERATED if 30 <= i < 40 else PROMPT) for i in range(1, 140)]
    mixed.run(*rows)  # one step: prompt rows whose ancestors are generated rows of the same step
    assert mixed.out == long.out
    mixed.chain(140, 160, parent=25)
    alone = Session(e, states)
    alone.chain(1, 26)
    alone.chain(140, 160, parent=25)
    assert {i: mixed.out[i] for i in alone.out} == alone.out


@pytest.mark.parametrize("threads", [1, 2])
def test_sessions_in_one_batch_do_not_see_each_other(threads):
    states = [inputs(171, seed=seed) for seed in (1, 2)]
    check_company(engine(threads=threads), states, (400, 400))


def test_dropped_rows_and_compaction_leave_no_trace():
    check_dropped(engine(), inputs(120), inputs(900, seed=3))


def test_taps_are_the_residuals_of_shorter_windows():
    states = inputs(80)
    outs = {}
    for end in (2, 3, 4):
        session = Session(engine(end=end), states)
        rows = [(i, i - 1, PROMPT if i < 70 else GENERATED) for i in range(1, 80)]
        outs[end], taps = session.engine.forward(
            (session.place(rows),), states[1:], frozenset({2, 3, 4})
        )
        assert sorted(taps) == list(range(2, end + 1))
    for boundary, tapped in taps.items():
        assert np.array_equal(tapped, outs[boundary])


@pytest.mark.parametrize("residual", list(Residual))
def test_output_is_rounded_to_the_residual_type(residual):
    states = inputs(5, residual=residual)
    session = Session(engine(residual=residual), states)
    out, _ = session.engine.forward(
        (session.place([(i, i - 1, PROMPT) for i in (1, 2)]),), states[:2]
    )
    assert np.array_equal(unpack(pack(out, residual), 2, EVEN.width, residual), out)


@pytest.mark.parametrize("kind", list(Kind))
def test_an_fp16_residual_overflows_by_name(kind):
    big = {name: 300 * w for name, w in weights(EVEN).items()}
    e = TorchEngine(big.__getitem__, EVEN, 0, 4, Residual.FP16)
    session = Session(e, inputs(3, residual=Residual.FP16))
    with pytest.raises(ResidualOverflow, match="bf16"):
        session.run((1, 0, kind))


def test_refusals():
    e = engine()
    with pytest.raises(LayersOutOfRange):
        engine(start=2, end=2)
    with pytest.raises(LayersOutOfRange):
        engine(end=5)
    session = Session(e, inputs(3))
    segment = session.place([(1, 0, PROMPT)])
    with pytest.raises(BadShape):
        e.forward((segment,), inputs(2))
    outside = Segment(session.cache, (EngineRow(PROMPT, 0, 400, np.array([400])),))
    with pytest.raises(OutOfSlots):
        e.forward((outside,), inputs(1))


def test_an_empty_batch_is_nothing():
    out, taps = engine().forward((), np.zeros((0, EVEN.width), np.float32), frozenset({1}))
    assert out.shape == taps[1].shape == (0, EVEN.width)


def test_progress_counts_layers():
    seen = []
    shape = EVEN
    TorchEngine(weights(shape).__getitem__, shape, 1, 4, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_fingerprint_tells_classes_apart():
    prints = [engine(threads=t, end=end).numerics.fingerprint for t, end in ((1, 4), (2, 1))]
    assert prints[0] == prints[1]
    assert len(prints[0]) == 64
    assert engine(residual=Residual.FP32).numerics.fingerprint != prints[0]

    def slightly_other(load):
        def scaled(name):
            return load(name) * np.float32(1.001) if name.endswith("attn_q.weight") else load(name)

        return TorchEngine(scaled, replace(EVEN, layers=1), 0, 1, Residual.BF16)

    assert fingerprint(slightly_other, EVEN, Residual.BF16) != prints[0]


def test_fixed_weights_are_fixed():
    values = fixed_weight("blk.0.attn_q.weight", EVEN)
    assert values.shape == (64, 64)
    assert values.dtype == np.float32
    assert (values[0, :4] * 2**17).tolist() == [13959.0, -10688.0, 706.0, -6120.0]
    norm = fixed_weight("blk.0.ffn_norm.weight", EVEN)
    assert norm.shape == (64,)
    assert 0.8 < norm.min() < norm.max() < 1.2


@pytest.mark.parametrize("interleaved", [False, True])
def test_close_to_transformers(interleaved):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = replace(ODD, interleaved_rope=interleaved)
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, head_dim=shape.head_width, rms_norm_eps=1e-5,
        rope_theta=shape.rope_base, max_position_embeddings=512, attn_implementation="eager",
    )  # fmt: skip
    ours = weights(shape)
    model = LlamaForCausalLM(config).eval()
    theirs = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    state = model.state_dict()
    for name, values in ours.items():
        _, layer, part, _ = name.split(".")
        state[f"model.layers.{layer}.{theirs[part]}.weight"].copy_(torch.from_numpy(values))
    if interleaved:  # as GGUF lays out the rows of each head: (i, i + half) becomes (2i, 2i + 1)
        order = np.arange(shape.head_width).reshape(2, -1).T.reshape(-1)
        for name in [n for n in ours if n.endswith(("attn_q.weight", "attn_k.weight"))]:
            heads = ours[name].reshape(-1, shape.head_width, shape.width)
            ours[name] = np.ascontiguousarray(heads[:, order].reshape(-1, shape.width))
    states = inputs(131, shape, Residual.FP32)
    kept = []
    model.model.layers[-1].register_forward_hook(lambda _m, _i, out: kept.append(out))
    with torch.no_grad():
        model(inputs_embeds=torch.from_numpy(states[None, 1:]))
    wanted = (kept[0][0] if isinstance(kept[0], tuple) else kept[0]).numpy().reshape(130, -1)
    for prompt in (130, 100, 0):
        session = Session(
            TorchEngine(ours.__getitem__, shape, 0, shape.layers, Residual.FP32), states
        )
        session.chain(1, prompt + 1)
        session.chain(prompt + 1, 131, GENERATED)
        got = np.stack([np.frombuffer(session.out[i], np.float32) for i in range(1, 131)])
        assert np.abs(got - wanted).max() / np.abs(wanted).max() < 1e-5
