"""Engines show every layer's residual and what they stored, and take it back."""

import numpy as np
import pytest

from hearthring.protocol.errors import BadShape, NonFinite
from hearthring.protocol.tensors import Residual, pack
from hearthring.shards.engine import EngineRow, Kind, Segment
from hearthring.shards.engines import EngineOptions, load_engine
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.kv_types import kv_bytes_of, kv_floats, kv_row_bytes
from hearthring.shards.tracing import TracingEngine
from tests.tiny import WIDTH, write_tiny_gguf

LAYERS, ROWS = 4, 70
FAST = EngineOptions(exact=False)
VALUES = 32  # of K or V


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return GgufFile(write_tiny_gguf(tmp_path_factory.mktemp("t") / "t.gguf", quant="Q8_0"))


@pytest.fixture(scope="module")
def states():
    drawn = np.random.default_rng(3).standard_normal((ROWS, WIDTH)).astype(np.float32)
    return drawn.astype(np.float16).astype(np.float32)


def placed(low, high, kind):
    slots = np.arange(high, dtype=np.int64)
    return tuple(EngineRow(kind, p, p, slots[: p + 1]) for p in range(low, high))


def steps():
    """A prompt in two pieces, then rows one by one."""
    yield placed(0, 40, Kind.PROMPT)
    yield placed(40, 66, Kind.PROMPT)
    for position in range(66, ROWS):
        yield placed(position, position + 1, Kind.GENERATED)


@pytest.mark.parametrize("residual", list(Residual))
@pytest.mark.parametrize("engine", ["ggml", "torch", "fast"])
def test_a_trace_holds_every_boundary_and_changes_nothing(gguf, states, engine, residual):
    options = FAST if engine == "fast" else EngineOptions()
    name = "ggml" if engine == "ggml" else "torch"
    engine = load_engine(name, gguf, (0, LAYERS), residual, 1, options=options)
    assert isinstance(engine, TracingEngine)
    plain, traced = engine.new_cache(ROWS), engine.new_cache(ROWS)
    taps = frozenset(range(1, LAYERS + 1))
    for rows in steps():
        piece = states[rows[0].position : rows[-1].position + 1]
        out, tapped = engine.forward((Segment(plain, rows),), piece, taps)
        shown = engine.forward_traced((Segment(traced, rows),), piece, frozenset({2}))
        assert shown.out.tobytes() == out.tobytes()
        assert set(shown.tapped) == {2}
        assert shown.tapped[2].tobytes() == tapped[2].tobytes()
        assert shown.trace.shape == (LAYERS, len(rows), WIDTH * residual.bytes)
        for layer in range(LAYERS):
            assert shown.trace[layer].tobytes() == pack(tapped[layer + 1], residual)


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("ggml", EngineOptions(), "f16"),
        ("torch", EngineOptions(), "f32"),
        ("torch", FAST, "f32"),
    ],
)
def test_what_is_read_can_be_written_into_one_layer_s_cache(gguf, states, name, options, kind):
    engine = load_engine(name, gguf, (0, LAYERS), Residual.FP16, 1, options=options)
    cache = engine.new_cache(ROWS)
    assert cache.kv_type == kind
    for rows in steps():
        piece = states[rows[0].position : rows[-1].position + 1]
        traced = engine.forward_traced((Segment(cache, rows),), piece)
    slots = np.arange(ROWS - 1, dtype=np.int64)
    one = engine.new_cache(ROWS, (2, 3))
    one.write(2, slots, *cache.read(2, slots))
    below = np.frombuffer(traced.trace[1].tobytes(), "<f2").astype(np.float32)[None]
    out, _ = engine.forward((Segment(one, placed(ROWS - 1, ROWS, Kind.GENERATED)),), below)
    last = np.array([ROWS - 1])
    if options.exact:
        assert pack(out, Residual.FP16) == traced.trace[2].tobytes()
        assert one.read(2, last) == cache.read(2, last)
    with pytest.raises(BadShape):
        one.write(2, slots, b"", b"")


def test_types_of_keys_and_values_turn_into_each_other():
    drawn = np.random.default_rng(5).standard_normal((3, VALUES)).astype(np.float32)
    for kind, error in (("f32", 0.0), ("f16", 2e-3), ("bf16", 2e-2), ("q8_0", 2e-2)):
        stored = kv_bytes_of(kind, drawn)
        assert stored.shape == (3, kv_row_bytes(kind, VALUES))
        back = kv_floats(kind, stored.tobytes(), VALUES)
        assert np.abs(back - drawn).max() <= error
        assert kv_bytes_of(kind, back).tobytes() == stored.tobytes()
    with pytest.raises(BadShape):
        kv_row_bytes("q8_0", 30)
    with pytest.raises(BadShape):
        kv_floats("f16", b"\0" * 7, VALUES)
    with pytest.raises(NonFinite):
        kv_floats("f32", b"\xff" * 4 * VALUES, VALUES)
