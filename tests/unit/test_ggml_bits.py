"""Rows of the ggml engine keep their bits, however they are batched and wherever they lie."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from bench.side_by_side import WITH_KEYS, WITHOUT_KEYS, SideBySide, WithoutKeys
from hearthring.protocol.tensors import Residual
from hearthring.shards.engine import EngineRow, Segment
from hearthring.shards.families import layer_parts
from hearthring.shards.fingerprint import fixed_weight, uniform
from hearthring.shards.ggml_check import FixedWeights
from hearthring.shards.ggml_engine import GgmlEngine
from hearthring.shards.ggml_library import load_ggml
from hearthring.shards.ggml_passes import CHUNK
from hearthring.shards.ggml_weights import LoadedWeights
from hearthring.shards.shape import Shape
from tests.ggml_tiny import LAYERS, TYPES, engine, inputs
from tests.keeping_bits import (
    between,
    check_company,
    check_cuts,
    check_dropped,
    check_tree,
    check_windows,
    reference,
)
from tests.sessions import GENERATED, PROMPT, Session, litter


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("residual", list(Residual))
@pytest.mark.parametrize("step", [1, 7, CHUNK[PROMPT], 149])
def test_the_cut_of_a_prompt_changes_no_bit(kind, residual, step):
    check_cuts(engine(kind, residual=residual), inputs(171, residual), step)


@pytest.mark.parametrize("kind", TYPES)
def test_windows_equal_the_whole(kind):
    states, both = inputs(171), engine(kind)
    check_windows(lambda start, end: engine(kind, start, end), LAYERS, states)
    for cut in range(1, LAYERS):  # and as parts of one engine
        first = reference(both, states, window=(0, cut))
        rest = reference(both, between(first, states), window=(cut, LAYERS))
        assert rest == reference(both, states)


@pytest.mark.parametrize("kind", TYPES)
def test_thread_count_changes_no_bit(kind):
    states = inputs(371)
    one, two = (reference(engine(kind, threads=threads), states, 350, 370) for threads in (1, 2))
    assert one == two


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("prompt", [1, 130])
def test_a_tree_equals_each_of_its_branches(kind, threads, prompt):
    check_tree(engine(kind, threads=threads), inputs(prompt + 9), prompt)


@pytest.mark.parametrize("kind", TYPES)
def test_gaps_between_slots_change_no_bit(kind):
    e, states = engine(kind), inputs(60)
    outs = []
    for slots in (np.arange(60), np.arange(60) * 5 + 3, np.sort(np.arange(60) ** 2 % 3481 + 9)):
        slots = np.unique(slots)[:59]
        cache = e.new_cache(4000)
        litter(cache)
        rows = [EngineRow(PROMPT, p, int(slots[p]), slots[: p + 1]) for p in range(len(slots))]
        parts = [rows[:40], *([row] for row in rows[40:])]
        done, found = 0, []
        for part in parts:
            given = states[done : done + len(part)]
            found.append(e.forward((Segment(cache, tuple(part)),), given)[0])
            done += len(part)
        outs.append(np.concatenate(found)[:28])
    assert np.array_equal(outs[0], outs[1])
    assert np.array_equal(outs[0], outs[2])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", TYPES)
def test_sessions_in_one_batch_do_not_see_each_other(kind, threads):
    states = [inputs(171, seed=seed) for seed in (1, 2, 3)]
    check_company(engine(kind, threads=threads), states, (360, 420, 480))


def test_dropped_rows_and_compaction_leave_no_trace():
    check_dropped(engine("Q4_1"), inputs(120), inputs(900, seed=3))


WIDE = Shape("llama", 1, 256, 4, 2, 64, 512, 512, 1024, 1e-5, 1e4)
EXPERTS = Shape("qwen3moe", 1, 256, 4, 2, 64, 256, 512, 1024, 1e-5, 1e4, experts=3, experts_used=2)
ALL_TYPES = [
    "F32",
    "F16",
    "BF16",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
]


@pytest.mark.parametrize(
    ("shape", "kind"),
    [(WIDE, kind) for kind in ALL_TYPES]
    + [(EXPERTS, kind) for kind in ("F16", "Q4_0", "Q4_K", "Q6_K")],
)
def test_every_weight_type_keeps_bits(shape, kind):
    """Some types' kernels change with two rows, some with six, some once eight share an expert,
    some never."""
    kinds = {
        part: GGMLQuantizationType["F32" if len(size) == 1 or "gate_inp" in part else kind]
        for part, size in layer_parts(shape).items()
    }
    weights = FixedWeights(load_ggml(), lambda name: fixed_weight(name, shape), shape, kinds)
    one, two = (GgmlEngine(weights, 0, 1, Residual.FP32, threads) for threads in (1, 2))
    states = uniform(3, (141, shape.width))
    plain = Session(one, states)
    plain.chain(1, 100)
    plain.chain(100, 141, GENERATED, 1)
    other = Session(two, states)
    other.chain(1, 6, PROMPT, 1)
    other.chain(6, 100, PROMPT, 17)
    for low, high in ((100, 102), (102, 105), (105, 110), (110, 116), (116, 125), (125, 141)):
        other.chain(low, high, GENERATED)
    assert other.out == plain.out


def heights(runs):
    """Outputs of each run's matrices together, by the name of its first."""
    sizes = layer_parts(WIDE)
    return {f"blk.0.{run[0]}": sum(sizes[part][0] for part in run) for run in runs}


@pytest.mark.parametrize("kind", ALL_TYPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_matrices_that_lie_side_by_side_keep_bits(kind, threads):
    kinds = {
        part: GGMLQuantizationType["F32" if len(size) == 1 else kind]
        for part, size in layer_parts(WIDE).items()
    }
    out = []
    for source, runs in ((FixedWeights, ()), (SideBySide, WITH_KEYS), (WithoutKeys, WITHOUT_KEYS)):
        weights = source(load_ggml(), lambda name: fixed_weight(name, WIDE), WIDE, kinds)
        joined = LoadedWeights(load_ggml(), weights, 0, 1, None).joined
        assert {name: matrix.outer for name, matrix in joined.items()} == heights(runs)
        session = Session(
            GgmlEngine(weights, 0, 1, Residual.FP32, threads, check=False),
            uniform(3, (60, WIDE.width)),
        )
        session.chain(1, 30)
        session.chain(30, 40, GENERATED, 1)
        session.chain(40, 60, GENERATED, 5)
        out.append(session.out)
    assert out[0] == out[1]


def test_a_prompt_beside_dropped_rows_equals_one_in_order():
    """Tiles are cut by slot, so prompt rows that lie elsewhere are run in a straight copy."""
    e, states = engine("Q4_1", threads=2), inputs(460)
    plain = Session(e, states, capacity=470)
    plain.chain(1, 100)
    plain.chain(100, 130, GENERATED)
    plain.chain(130, 450)
    plain.chain(450, 460, GENERATED, 1)
    other = Session(e, np.concatenate((states, states)), capacity=900)
    other.chain(1, 100)
    other.run(*((i, 99, GENERATED) for i in range(300, 340)))  # siblings that stay for a while
    last = 99
    for first, kind in ((100, GENERATED), (130, PROMPT), (450, GENERATED)):
        ids = range(460 + first, 460 + {100: 130, 130: 450, 450: 460}[first])
        other.run(*((i, last if i == ids[0] else i - 1, kind) for i in ids))
        last = ids[-1]
    assert {i - 460: out for i, out in other.out.items() if i > 460} == {
        i: out for i, out in plain.out.items() if i >= 100
    }
