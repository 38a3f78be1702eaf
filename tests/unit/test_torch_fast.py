"""The fast torch engine, on the CPU: right within its type's rounding, for every family."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from hearthring.protocol.errors import (
    BadShape,
    EngineUnavailable,
    LayersOutOfRange,
    OutOfSlots,
    ResidualOverflow,
)
from hearthring.protocol.tensors import Residual
from hearthring.shards import torch_int4
from hearthring.shards.engine import EngineRow, Kind, Segment
from hearthring.shards.slots import SlotMap
from hearthring.shards.torch_engine import TorchEngine
from hearthring.shards.torch_fast import FastTorchEngine, Place, choose_place
from tests.shapes import CPU, LLAMA, SHAPES, apart, engine, states, weights

PROMPT, GENERATED = Kind.PROMPT, Kind.GENERATED
TIGHT = 2e-5
"""Relative error of float32 sums in another order."""
pytestmark = pytest.mark.usefixtures("torch_threads")


def chain(cache, first, count, kind=PROMPT, slots=None):
    slots = np.arange(first + count) if slots is None else slots
    rows = tuple(
        EngineRow(kind, p, int(slots[p]), slots[: p + 1]) for p in range(first, first + count)
    )
    return Segment(cache, rows)


def run(engine, states, *steps, slots=None, capacity=64):
    """The outputs of a chain of rows cut into steps of these sizes."""
    cache, out, at = engine.new_cache(capacity), [], 0
    for count in steps:
        segment = chain(cache, at, count, slots=slots)
        out.append(engine.forward((segment,), states[at : at + count])[0])
        at += count
    return np.concatenate(out)


def test_llama_layers_are_those_of_the_reference() -> None:
    e, x = engine(), states(40)
    reference = TorchEngine(weights(LLAMA).__getitem__, LLAMA, 0, 3)
    assert apart(run(e, x, 40), run(reference, x, 40)) < TIGHT
    assert apart(run(e, x, 30, *[1] * 10), run(reference, x, 40)) < TIGHT


@pytest.mark.parametrize("name", SHAPES)
def test_a_cut_or_a_split_into_windows_changes_nothing_but_rounding(name: str) -> None:
    shape = SHAPES[name]
    e, x = engine(shape), states(24, shape)
    whole = run(e, x, 24)
    assert apart(run(e, x, 7, 1, 10, 6), whole) < TIGHT
    parts = [engine(shape, 0, 1), engine(shape, 1, 3)]
    assert apart(run(parts[1], run(parts[0], x, 24), 24), whole) < TIGHT
    assert apart(whole, x) > 0.1
    out, taps = e.forward((chain(e.new_cache(24), 0, 24),), x, frozenset((1, 3)))
    assert apart(taps[1], run(parts[0], x, 24)) < TIGHT
    assert np.array_equal(taps[3], out)


@pytest.mark.parametrize("name", SHAPES)
def test_a_tree_gives_what_its_branches_give_alone(name: str) -> None:
    shape = SHAPES[name]
    e, x = engine(shape), states(16, shape)
    trunk, one, two = x[:8], x[8:12], x[12:16]
    alone = [run(e, np.concatenate((trunk, branch)), 12)[8:] for branch in (one, two)]
    cache = e.new_cache(32)
    e.forward((chain(cache, 0, 8),), trunk)
    rows = []
    for branch in range(2):
        for step in range(4):
            slot = 8 + 2 * step + branch
            path = np.concatenate((np.arange(8), 8 + 2 * np.arange(step + 1) + branch))
            rows.append(EngineRow(GENERATED, 8 + step, slot, path))
    out, _ = e.forward((Segment(cache, tuple(rows)),), np.concatenate((one, two)))
    assert apart(out, np.concatenate(alone)) < TIGHT


def test_what_was_dropped_never_happened() -> None:
    e, x = engine(), states(12)
    slots, cache = SlotMap(16), e.new_cache(16)
    placed = [slots.insert(i + 1, i, i, PROMPT) for i in range(8)]
    e.forward((Segment(cache, tuple(placed)),), x[:8])
    wrong = tuple(slots.insert(9 + i, 8 + i, 8 + i, GENERATED) for i in range(4))
    e.forward((Segment(cache, wrong),), states(4, seed=9))
    slots.drop((9,))
    rows = tuple(slots.insert(20 + i, 19 + i if i else 8, 8 + i, GENERATED) for i in range(4))
    out, _ = e.forward((Segment(cache, rows),), x[8:])
    assert apart(out, run(e, x, 12)[8:]) < TIGHT


def test_sessions_in_one_batch_do_not_see_each_other() -> None:
    e = engine()
    xs = [states(n, seed=n) for n in (9, 1, 4)]
    segments = tuple(chain(e.new_cache(16), 0, len(x)) for x in xs)
    out, _ = e.forward(segments, np.concatenate(xs))
    assert apart(out, np.concatenate([run(e, x, len(x)) for x in xs])) < TIGHT


def test_rows_are_found_wherever_they_were_moved() -> None:
    e, x = engine(), states(10)
    cache, slots = e.new_cache(32), np.arange(12, 32, 2)
    e.forward((chain(cache, 0, 9, slots=slots),), x[:9])
    cache.move(slots[:9], np.arange(9))
    out, _ = e.forward((chain(cache, 9, 1, GENERATED),), x[9:])
    assert apart(out, run(e, x, 10)[9:]) < TIGHT


@pytest.mark.parametrize(
    "name", [name for name in SHAPES if "moe" not in name and name != "mixtral"]
)
def test_nothing_is_left_behind_on_the_cpu(name: str) -> None:
    """torch's device without memory stands for a GPU: whatever lay elsewhere couldn't be mixed with
    it, and the only step it refuses is the last one, which takes the result to the CPU."""
    place = Place(torch.device("meta"), "fp16")
    e = engine(SHAPES[name], place=place)
    cache = e.new_cache(16)
    segments = (chain(cache, 0, 4), chain(e.new_cache(8), 0, 2, GENERATED))
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor") as stopped:
        e.forward(segments, states(6, SHAPES[name]))
    assert stopped.traceback[-1].name == "_array"
    cache.move(np.arange(2), np.arange(4, 6))
    cache.copy(e.new_cache(4), np.arange(4), np.arange(4))


@pytest.mark.parametrize(("compute", "within"), [("bf16", 0.03), ("fp16", 0.004)])
def test_narrow_types_are_right_within_their_rounding(compute: str, within: float) -> None:
    x = states(20)
    narrow = engine(place=choose_place("cpu", compute), residual=Residual.BF16)
    out = run(narrow, x, 12, *[1] * 8)
    assert apart(out - x, run(engine(), x, 20) - x) < within
    assert not (out.view(np.uint32) & 0xFFFF).any()  # nothing below bf16's bits


def test_its_class_is_nobodys() -> None:
    one, other = engine(), engine()
    assert one.numerics.fingerprint != other.numerics.fingerprint
    assert one.numerics.name == other.numerics.name
    assert one.numerics.name.endswith("/cpu/fp32/batched/fp32")


def test_an_overflow_is_named_and_leaves_the_cache_clean() -> None:
    e, x = engine(residual=Residual.FP16), states(5)
    cache = e.new_cache(8)
    e.forward((chain(cache, 0, 4),), x[:4])
    with pytest.raises(ResidualOverflow):
        e.forward((chain(cache, 4, 1),), np.full((1, 64), 1e30, np.float32))
    assert torch.isfinite(cache.k).all()
    out, _ = e.forward((chain(cache, 4, 1),), x[4:])
    assert apart(out, run(e, x, 5)[4:]) < TIGHT


def test_wrong_input_is_refused() -> None:
    e, x = engine(), states(3)
    cache = e.new_cache(3)
    with pytest.raises(BadShape):
        e.forward((chain(cache, 0, 3),), x[:2])
    with pytest.raises(OutOfSlots):
        e.forward((chain(cache, 0, 3, slots=np.array([0, 1, 3])),), x)
    both = (chain(cache, 0, 1), chain(e.new_cache(1, (0, 1)), 0, 1))
    with pytest.raises(BadShape):
        e.forward(both, x[:2])
    with pytest.raises(LayersOutOfRange):
        e.new_cache(1, (0, 4))
    with pytest.raises(LayersOutOfRange):
        engine(end=4)
    with pytest.raises(EngineUnavailable, match="no device"):
        choose_place("cuda:77")
    with pytest.raises(EngineUnavailable, match="fp8"):
        choose_place("cpu", "fp8")


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1])
@pytest.mark.parametrize("size", [(64, 64), (48, 160), (16, 32)])
def test_packed_weights_multiply_as_dequantised_ones(kind, size) -> None:
    draw = np.random.default_rng(3)
    raw = quantize(draw.standard_normal(size).astype(np.float32), kind)
    wide = torch.from_numpy(dequantize(raw, kind).astype(np.float64))
    packed = torch_int4.pack(kind, size, raw.reshape(-1), torch.float32)
    x = torch.from_numpy(draw.standard_normal((5, size[1])).astype(np.float32))
    wanted = x.double() @ wide.t()
    assert float((packed(x) - wanted).norm() / wanted.norm()) < 1e-6


def test_what_cannot_be_packed_stays_dense() -> None:
    data = np.zeros(4096, np.uint8)
    assert torch_int4.pack(GGMLQuantizationType.Q8_0, (16, 32), data, torch.float32) is None
    assert torch_int4.pack(GGMLQuantizationType.Q4_0, (24, 32), data, torch.float32) is None


@pytest.mark.parametrize("most", [0, 4, 64])
def test_layers_of_packed_weights_are_those_of_dense_ones(monkeypatch, most: int) -> None:
    monkeypatch.setattr(torch_int4, "wins_up_to", lambda *_: most)
    kind = GGMLQuantizationType.Q4_1
    raws = {}
    for name, values in weights(LLAMA).items():
        if values.ndim == 2:
            raws[name] = int(kind), values.shape, quantize(values, kind)
        else:
            raws[name] = 0, values.shape, values.view(np.uint8)

    def load(name):
        type_, shape, data = raws[name]
        return dequantize(data, kind) if type_ else data.view(np.float32).reshape(shape)

    packed = FastTorchEngine(load, LLAMA, 0, 3, place=CPU, raw=raws.__getitem__)
    dense = FastTorchEngine(load, LLAMA, 0, 3, place=CPU)
    assert packed._layers[0].qkv.packed is (most > 0)
    x = states(20)
    assert apart(run(packed, x, 16, 1, 3), run(dense, x, 20)) < TIGHT
