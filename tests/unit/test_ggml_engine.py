"""The ggml engine on tiny files: rows keep their bits however they are batched; and are right."""

import gc
import subprocess
import sys
import weakref
from itertools import pairwise

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from hearthring.protocol.errors import (
    BadShape,
    EngineUnavailable,
    LayersOutOfRange,
    OutOfSlots,
    ResidualOverflow,
)
from hearthring.protocol.tensors import Residual, pack, unpack
from hearthring.shards.engine import EngineRow, Segment
from hearthring.shards.engines import load_engine
from hearthring.shards.families import layer_parts
from hearthring.shards.fingerprint import fixed_weight, uniform
from hearthring.shards.ggml_check import FixedWeights, WideWeights
from hearthring.shards.ggml_engine import GgmlEngine
from hearthring.shards.ggml_library import load_ggml
from hearthring.shards.ggml_passes import CHUNK
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.self_check import check_layer
from hearthring.shards.shape import Shape
from hearthring.shards.slots import SlotMap
from tests.ggml_session import GENERATED, PROMPT, Session, litter
from tests.tiny import WIDTH, write_tiny_gguf

LAYERS = 4
TYPES = ("F32", "Q4_1", "Q8_0")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ggml")
    return {kind: GgufFile(write_tiny_gguf(folder / kind, quant=kind)) for kind in TYPES}


def engine(file, start=0, end=LAYERS, residual=Residual.BF16, threads=1):
    return GgmlEngine(file, start, end, residual, threads, check=False)


def inputs(count, residual=Residual.BF16, seed=1):
    wide = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    return unpack(pack(wide, residual), count, WIDTH, residual)


def reference(engine, states, prompt=150, total=170, window=None):
    """One prompt in one step, then one generated row at a time."""
    session = Session(engine, states, window=window)
    session.chain(1, prompt)
    session.chain(prompt, total, GENERATED, 1)
    return session.out


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("residual", list(Residual))
@pytest.mark.parametrize("step", [1, 7, CHUNK[PROMPT], 149])
def test_the_cut_of_a_prompt_changes_no_bit(files, kind, residual, step):
    e, states = engine(files[kind], residual=residual), inputs(171, residual)
    session = Session(e, states)
    session.chain(1, 150, PROMPT, step)
    session.chain(150, 170, GENERATED, 3)
    assert session.out == reference(e, states)


@pytest.mark.parametrize("kind", TYPES)
def test_windows_equal_the_whole(files, kind):
    states = inputs(171)
    whole = reference(engine(files[kind]), states)
    both = engine(files[kind])
    for cut in range(1, LAYERS):
        first = reference(engine(files[kind], 0, cut), states)
        assert reference(both, states, window=(0, cut)) == first
        between = np.zeros_like(states)
        for row, data in first.items():
            between[row] = np.frombuffer(data, np.float32)
        assert reference(engine(files[kind], cut, LAYERS), between) == whole
        assert reference(both, between, window=(cut, LAYERS)) == whole


@pytest.mark.parametrize("kind", TYPES)
def test_thread_count_changes_no_bit(files, kind):
    states = inputs(371)
    one, two = (
        reference(engine(files[kind], threads=threads), states, 350, 370) for threads in (1, 2)
    )
    assert one == two


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("prompt", [1, 130])
def test_a_tree_equals_each_of_its_branches(files, kind, threads, prompt):
    e, states = engine(files[kind], threads=threads), inputs(prompt + 9)
    at = prompt + 1
    parents = [prompt, prompt, at, at, at + 1, at + 2, at + 5, prompt]
    tree = Session(e, states)
    tree.chain(1, at)
    tree.run(*((at + i, parent, GENERATED) for i, parent in enumerate(parents)))
    for leaf in range(at, at + len(parents)):
        path = [leaf]
        while path[0] >= at:
            path.insert(0, parents[path[0] - at])
        alone = Session(e, states)
        alone.chain(1, at)
        for parent, row in pairwise(path):
            alone.run((row, parent, GENERATED))
        assert {i: tree.out[i] for i in alone.out} == alone.out


@pytest.mark.parametrize("kind", TYPES)
def test_gaps_between_slots_change_no_bit(files, kind):
    e, states = engine(files[kind]), inputs(60)
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
def test_sessions_in_one_batch_do_not_see_each_other(files, kind, threads):
    e = engine(files[kind], threads=threads)
    sessions = [Session(e, inputs(171, seed=s), 300 + 60 * s) for s in (1, 2, 3)]
    steps = [[(i, i - 1, PROMPT) for i in range(1, 150)]]
    steps += [[(i, i - 1, GENERATED)] for i in range(150, 170)]
    for number, step in enumerate(steps):
        order = sessions[number % 3 :] + sessions[: number % 3]
        segments = tuple(session.place(step) for session in order)
        ids = [row[0] for row in step]
        out, _ = e.forward(segments, np.concatenate([s.states[ids] for s in order]))
        for session, part in zip(order, np.split(out, 3), strict=True):
            session.keep(step, part)
    for seed, session in enumerate(sessions, 1):
        assert session.out == reference(e, inputs(171, seed=seed))


def test_dropped_rows_and_compaction_leave_no_trace(files):
    e, states = engine(files["Q4_1"]), inputs(120)
    plain = Session(e, states)
    plain.chain(1, 100)
    plain.chain(100, 120, GENERATED, 1)

    # Each row of the text is the last of four siblings, the others are dropped with a child each.
    session = Session(e, np.zeros((900, WIDTH), np.float32), capacity=125)
    noise, kept = inputs(900, seed=3), []
    parent, fresh = 0, 1
    for row in range(1, 120):
        kind = PROMPT if row < 100 else GENERATED
        ids = list(range(fresh, fresh + 6))
        session.states[ids] = noise[ids]
        session.states[ids[3]] = states[row]
        parents = [parent] * 4 + ids[:2]
        session.run(*((i, p, kind) for i, p in zip(ids, parents, strict=True)))
        session.slots.commit([ids[3]])
        session.slots.drop([*ids[:3], ids[4]])
        kept.append(session.out[ids[3]])
        parent, fresh = ids[3], fresh + 6
    assert kept == list(plain.out.values())
    assert session.moves


def test_taps_are_the_residuals_of_shorter_windows(files):
    states = inputs(200)
    rows = [(i, i - 1, PROMPT if i < 190 else GENERATED) for i in range(1, 200)]
    outs = {}
    for end in (2, 3, 4):
        session = Session(engine(files["Q4_1"], end=end), states)
        outs[end], taps = session.engine.forward(
            (session.place(rows),), states[1:], frozenset({2, 3, 4})
        )
        assert sorted(taps) == list(range(2, end + 1))
    for boundary, tapped in taps.items():
        assert np.array_equal(tapped, outs[boundary])


@pytest.mark.parametrize("residual", list(Residual))
def test_output_is_rounded_to_the_residual_type(files, residual):
    session = Session(engine(files["Q4_1"], residual=residual), inputs(3, residual))
    session.chain(1, 3)
    out = np.stack([np.frombuffer(row, np.float32) for row in session.out.values()])
    assert np.array_equal(unpack(pack(out, residual), 2, WIDTH, residual), out)


@pytest.mark.parametrize(("kind", "limit"), [("F32", 2e-3), ("Q8_0", 0.03), ("Q4_1", 0.03)])
def test_close_to_torch(files, kind, limit):
    from hearthring.shards.torch_engine import TorchEngine

    file, states = files[kind], inputs(131, Residual.FP32)
    outs = []
    torch_engine = TorchEngine(file.dequantised, file.shape, 0, LAYERS, Residual.FP32)
    for e in (torch_engine, engine(file, residual=Residual.FP32)):
        slots, cache = SlotMap(200), e.new_cache(200)
        rows = tuple(
            slots.insert(i, i - 1, i - 1, PROMPT if i < 100 else GENERATED) for i in range(1, 131)
        )
        outs.append(e.forward((Segment(cache, rows),), states[1:])[0])
    error = np.linalg.norm(outs[1] - outs[0]) / np.linalg.norm(outs[0] - states[1:])
    assert error < limit


def test_an_overflow_has_its_name_and_spoils_nothing_else(files):
    file = files["F32"]

    def large(name):
        return file.dequantised(name) * np.float32(300 if name.endswith("down.weight") else 1)

    e = GgmlEngine(WideWeights(large, file.shape), 0, LAYERS, Residual.FP16, check=False)
    states = inputs(12, Residual.FP16) / 100
    session = Session(e, unpack(pack(states, Residual.FP16), 12, WIDTH, Residual.FP16))
    session.states[10] = 65_504  # a sum with anything above 16 is too large
    session.run((1, 0, PROMPT))
    with pytest.raises(ResidualOverflow, match="bf16"):
        session.run((10, 1, PROMPT))
    session.run((11, 1, PROMPT))
    alone = Session(e, session.states)
    alone.run((1, 0, PROMPT))
    alone.run((11, 1, PROMPT))
    assert session.out == alone.out


def test_refusals(files):
    file = files["F32"]
    for window in ((2, 2), (0, 5), (-1, 2)):
        with pytest.raises(LayersOutOfRange):
            engine(file, *window)
    e = engine(file)
    with pytest.raises(LayersOutOfRange):
        e.new_cache(4, (0, 5))
    session = Session(e, inputs(3))
    segment = session.place([(1, 0, PROMPT)])
    with pytest.raises(BadShape):
        e.forward((segment,), inputs(2))
    outside = Segment(session.cache, (EngineRow(PROMPT, 0, 400, np.array([400])),))
    with pytest.raises(OutOfSlots):
        e.forward((outside,), inputs(1))
    other = Segment(e.new_cache(4, (0, 2)), segment.rows)
    with pytest.raises(BadShape):
        e.forward((segment, other), inputs(2))


def test_an_empty_batch_is_nothing(files):
    out, taps = engine(files["F32"]).forward((), np.zeros((0, WIDTH), np.float32), frozenset({1}))
    assert out.shape == taps[1].shape == (0, WIDTH)


def test_a_cache_takes_memory_as_it_is_written_and_gives_it_back(files):
    def resident():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * 4096

    if sys.platform != "linux":
        pytest.skip("reads /proc")
    e = engine(files["F32"])
    before = resident()
    session = e.new_cache(1 << 20)  # 512 MiB
    slots = np.arange(1)
    e.forward((Segment(session, (EngineRow(PROMPT, 0, 0, slots),)),), inputs(1))
    assert resident() - before < 16 << 20
    ended = weakref.ref(session)
    del session
    gc.collect()
    assert ended() is None


def test_graphs_outlive_the_caches_they_were_made_with(files):
    e, states = engine(files["Q4_1"]), inputs(40)
    wanted = None
    for _ in range(3):
        session = Session(e, states)
        session.chain(1, 40, PROMPT, 13)
        wanted = wanted or session.out
        assert session.out == wanted
        del session
        gc.collect()


def test_progress_counts_layers(files):
    seen = []
    GgmlEngine(files["F32"], 1, 4, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]


WIDE = Shape("llama", 1, 256, 4, 2, 64, 512, 512, 1024, 1e-5, 1e4)
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


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_every_weight_type_keeps_bits(kind):
    """Some types' kernels change with two rows, some with six, some never."""
    kinds = {
        part: GGMLQuantizationType[kind if len(size) == 2 else "F32"]
        for part, size in layer_parts(WIDE).items()
    }
    weights = FixedWeights(load_ggml(), lambda name: fixed_weight(name, WIDE), WIDE, kinds)
    one, two = (
        GgmlEngine(weights, 0, 1, Residual.FP32, threads, check=False) for threads in (1, 2)
    )
    states = uniform(3, (141, WIDE.width))
    plain = Session(one, states)
    plain.chain(1, 100)
    plain.chain(100, 141, GENERATED, 1)
    other = Session(two, states)
    other.chain(1, 6, PROMPT, 1)
    other.chain(6, 100, PROMPT, 17)
    for low, high in ((100, 102), (102, 105), (105, 110), (110, 116), (116, 125), (125, 141)):
        other.chain(low, high, GENERATED)
    assert other.out == plain.out


def test_a_prompt_beside_dropped_rows_equals_one_in_order(files):
    """Tiles are cut by slot, so prompt rows that lie elsewhere are run in a straight copy."""
    e, states = engine(files["Q4_1"], threads=2), inputs(460)
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


def test_the_class_is_that_of_the_weight_types(files):
    classes = [engine(files["Q4_1"], threads=t, end=end).numerics for t, end in ((1, 4), (2, 1))]
    assert classes[0] == classes[1]
    assert classes[0].name == (f"ggml-{load_ggml().build}/f32+q4_1/kv-f16/prompt-dot/bf16")
    others = [
        engine(files["Q8_0"]).numerics.fingerprint,
        engine(files["Q4_1"], residual=Residual.FP32).numerics.fingerprint,
    ]
    assert len({classes[0].fingerprint, *others}) == 3


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("broken", [None, "attn_q", "attn_v", "ffn_down"])
def test_the_self_test_finds_a_wrong_kernel(files, kind, broken):
    """A kernel that is wrong is played by weights other than the file's."""
    file = files[kind]

    def slightly_other(name):
        values = file.dequantised(name)
        return -values if broken and name == f"blk.1.{broken}.weight" else values

    def make(residual):
        return GgmlEngine(WideWeights(slightly_other, file.shape), 1, 2, residual, check=False)

    if broken:
        with pytest.raises(EngineUnavailable, match="layer 1 wrong"):
            check_layer(file, 1, Residual.BF16, make)
    else:
        check_layer(file, 1, Residual.BF16, make)
        GgmlEngine(file, 1, 2, Residual.FP16)


def test_a_library_that_is_not_ggml_is_refused(tmp_path, monkeypatch):
    with pytest.raises(EngineUnavailable, match="can't be loaded"):
        load_ggml(str(tmp_path / "none.so"))
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(EngineUnavailable, match="can't be loaded"):
        load_ggml(str(tmp_path / "text.so"))
    import _ctypes

    with pytest.raises(EngineUnavailable, match="doesn't export ggml_"):
        load_ggml(_ctypes.__file__)
    monkeypatch.setattr("hearthring.shards.ggml_library.VERSION", "0.0.1")
    with pytest.raises(EngineUnavailable, match=r"needs 0\.0\.1"):
        load_ggml(str(load_ggml().path))
    monkeypatch.setattr("hearthring.shards.ggml_library.WHEEL", "1.2.3")
    monkeypatch.delenv("HEARTHRING_GGML", raising=False)
    load_ggml.cache_clear()
    with pytest.raises(EngineUnavailable, match=r"xllamacpp==1\.2\.3"):
        load_ggml()
    load_ggml.cache_clear()


def test_by_name_and_without_torch(files):
    """``--engine ggml`` imports neither torch nor the wheel's Python module."""
    program = (
        "import sys\n"
        "from hearthring.shards.engines import load_engine\n"
        "from hearthring.shards.gguf_file import GgufFile\n"
        f"file = GgufFile({str(files['Q4_1'].path)!r})\n"
        "engine = load_engine('ggml', file, (1, 3), None, 1, None, file.dequantised)\n"
        "assert engine.numerics.residual == 'bf16' and 'q4_1' in engine.numerics.name\n"
        "found = {'torch', 'xllamacpp'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    file = files["Q4_1"]
    wide = load_engine("ggml", file, (0, 1), None, 1, None, lambda name: file.dequantised(name))
    assert "q4_1" not in wide.numerics.name.replace("f32", "")
