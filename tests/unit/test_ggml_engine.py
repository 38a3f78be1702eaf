"""The ggml engine on tiny files: what it computes is right, and what it refuses."""

import gc
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest

from hearthring.protocol.errors import (
    BadShape,
    EngineUnavailable,
    LayersOutOfRange,
    OutOfSlots,
    ResidualOverflow,
)
from hearthring.protocol.tensors import Residual, pack, unpack
from hearthring.shards import ggml_engine
from hearthring.shards.engine import EngineRow, Segment
from hearthring.shards.engines import load_engine
from hearthring.shards.ggml_check import WideWeights
from hearthring.shards.ggml_engine import GgmlEngine
from hearthring.shards.ggml_graph import Graph
from hearthring.shards.ggml_library import load_ggml
from hearthring.shards.self_check import check_layer
from hearthring.shards.slots import SlotMap
from tests.ggml_tiny import LAYERS, TYPES, engine, inputs, tiny_file
from tests.sessions import GENERATED, PROMPT, Session
from tests.tiny import WIDTH


def test_taps_are_the_residuals_of_shorter_windows():
    states = inputs(200)
    rows = [(i, i - 1, PROMPT if i < 190 else GENERATED) for i in range(1, 200)]
    outs = {}
    for end in (2, 3, 4):
        session = Session(engine("Q4_1", end=end), states)
        outs[end], taps = session.engine.forward(
            (session.place(rows),), states[1:], frozenset({2, 3, 4})
        )
        assert sorted(taps) == list(range(2, end + 1))
    for boundary, tapped in taps.items():
        assert np.array_equal(tapped, outs[boundary])


@pytest.mark.parametrize("residual", list(Residual))
def test_output_is_rounded_to_the_residual_type(residual):
    session = Session(engine("Q4_1", residual=residual), inputs(3, residual))
    session.chain(1, 3)
    out = np.stack([np.frombuffer(row, np.float32) for row in session.out.values()])
    assert np.array_equal(unpack(pack(out, residual), 2, WIDTH, residual), out)


@pytest.mark.parametrize(("kind", "limit"), [("F32", 2e-3), ("Q8_0", 0.03), ("Q4_1", 0.03)])
def test_close_to_torch(kind, limit):
    from hearthring.shards.torch_engine import TorchEngine

    file, states = tiny_file(kind), inputs(131, Residual.FP32)
    outs = []
    torch_engine = TorchEngine(file.dequantised, file.shape, 0, LAYERS, Residual.FP32)
    for e in (torch_engine, engine(kind, residual=Residual.FP32)):
        slots, cache = SlotMap(200), e.new_cache(200)
        rows = tuple(
            slots.insert(i, i - 1, i - 1, PROMPT if i < 100 else GENERATED) for i in range(1, 131)
        )
        outs.append(e.forward((Segment(cache, rows),), states[1:])[0])
    error = np.linalg.norm(outs[1] - outs[0]) / np.linalg.norm(outs[0] - states[1:])
    assert error < limit


def test_an_overflow_has_its_name_and_spoils_nothing_else():
    file = tiny_file("F32")

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


def test_refusals():
    for window in ((2, 2), (0, 5), (-1, 2)):
        with pytest.raises(LayersOutOfRange):
            engine("F32", *window)
    e = engine("F32")
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


def test_an_empty_batch_is_nothing():
    out, taps = engine("F32").forward((), np.zeros((0, WIDTH), np.float32), frozenset({1}))
    assert out.shape == taps[1].shape == (0, WIDTH)


def test_a_cache_takes_memory_as_it_is_written_and_gives_it_back():
    def resident():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if sys.platform != "linux":
        pytest.skip("reads /proc")
    e = engine("F32")
    before = resident()
    session = e.new_cache(1 << 20)  # 512 MiB
    slots = np.arange(1)
    e.forward((Segment(session, (EngineRow(PROMPT, 0, 0, slots),)),), inputs(1))
    assert resident() - before < 16 << 20
    ended = weakref.ref(session)
    del session
    gc.collect()
    assert ended() is None


def test_graphs_outlive_the_caches_they_were_made_with():
    e, states = engine("Q4_1"), inputs(40)
    wanted = None
    for _ in range(3):
        session = Session(e, states)
        session.chain(1, 40, PROMPT, 13)
        wanted = wanted or session.out
        assert session.out == wanted
        del session
        gc.collect()


def test_sessions_of_all_lengths_share_graphs(monkeypatch):
    built = []
    monkeypatch.setattr(ggml_engine, "Graph", lambda *at: built.append(at) or Graph(*at))
    e, states = engine("Q4_1"), inputs(3)
    rows, slots = [EngineRow(GENERATED, p, p, np.arange(p + 1)) for p in range(3)], (3, 50, 128)

    def run(caches, counts):
        segments = tuple(
            Segment(cache, tuple(rows[:count])) for cache, count in zip(caches, counts, strict=True)
        )
        out, _ = e.forward(segments, np.concatenate([states[:count] for count in counts]))
        ends = np.cumsum(counts)
        return [out[end - count : end].tobytes() for end, count in zip(ends, counts, strict=True)]

    alone = [run([e.new_cache(128)], [count])[0] for count in (1, 3)]
    built.clear()
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        caches = [e.new_cache(slots[i]) for i in order]
        counts = [3 if i == 1 else 1 for i in order]
        assert run(caches, counts) == [alone[count == 3] for count in counts]
    assert len(built) == 1


def test_progress_counts_layers():
    seen = []
    GgmlEngine(tiny_file("F32"), 1, 4, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_class_is_that_of_the_weight_types():
    classes = [engine("Q4_1", threads=t, end=end).numerics for t, end in ((1, 4), (2, 1))]
    assert classes[0] == classes[1]
    assert classes[0].name == (f"ggml-{load_ggml().build}/f32+q4_1/kv-f16/prompt-dot/bf16")
    others = [
        engine("Q8_0").numerics.fingerprint,
        engine("Q4_1", residual=Residual.FP32).numerics.fingerprint,
    ]
    assert len({classes[0].fingerprint, *others}) == 3


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("broken", [None, "attn_q", "attn_v", "ffn_down"])
def test_the_self_test_finds_a_wrong_kernel(kind, broken):
    """A kernel that is wrong is played by weights other than the file's."""
    file = tiny_file(kind)

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


def test_memory_may_lie_wherever_a_system_maps_it():
    """ARM has 48 bits of addresses; what ggml is told of less, it aborts at."""
    program = (
        "from hearthring.shards.ggml_library import F32, load_ggml\n"
        "from hearthring.shards.ggml_memory import EVERYWHERE, Memory\n"
        "ggml = load_ggml()\n"
        "anywhere = ggml.calls.ggml_backend_cpu_buffer_from_ptr(*EVERYWHERE)\n"
        "memory = Memory(ggml, 1)\n"
        "tensor = ggml.calls.ggml_new_tensor_1d(memory.context, F32, 1024)\n"
        "ggml.calls.ggml_backend_tensor_alloc(anywhere, tensor, (1 << 48) - 4096)\n"
        "assert ggml.calls.ggml_get_data(tensor) == (1 << 48) - 4096\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_by_name_and_without_torch():
    """``--engine ggml`` imports neither torch nor the wheel's Python module."""
    program = (
        "import sys\n"
        "from hearthring.shards.engines import load_engine\n"
        "from hearthring.shards.gguf_file import GgufFile\n"
        f"file = GgufFile({str(tiny_file('Q4_1').path)!r})\n"
        "engine = load_engine('ggml', file, (1, 3), None, 1, None, file.dequantised)\n"
        "assert engine.numerics.residual == 'bf16' and 'q4_1' in engine.numerics.name\n"
        "found = {'torch', 'xllamacpp'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    file = tiny_file("Q4_1")
    wide = load_engine("ggml", file, (0, 1), None, 1, None, lambda name: file.dequantised(name))
    assert "q4_1" not in wide.numerics.name.replace("f32", "")
