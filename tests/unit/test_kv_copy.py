"""Keys and values copied from one cache into another: a row there computes the same."""

from collections.abc import Callable

import numpy as np
import pytest

from hearthring.protocol.errors import BadShape
from hearthring.protocol.tensors import Residual
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.engines import load_engine
from hearthring.shards.gguf_file import GgufFile
from tests.tiny import WIDTH, write_tiny_gguf

Make = Callable[[str], Engine]
ROWS = 9


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    path = write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", quant="Q4_1")
    return lambda name: load_engine(name, GgufFile(path), (0, 2), Residual.FP32, 1)


@pytest.mark.parametrize("name", ["torch", "ggml"])
def test_a_row_after_copied_rows_is_the_same(make: Make, name: str) -> None:
    engine = make(name)
    states = np.random.default_rng(0).standard_normal((ROWS + 1, WIDTH)).astype(np.float32)
    spread = np.arange(ROWS + 1, dtype=np.int64) * 2
    first, second = engine.new_cache(2 * ROWS + 2), engine.new_cache(ROWS + 1)
    rows = tuple(EngineRow(Kind.PROMPT, p, int(spread[p]), spread[: p + 1]) for p in range(ROWS))
    engine.forward((Segment(first, rows),), states[:ROWS])
    close = np.arange(ROWS + 1, dtype=np.int64)
    second.copy(first, spread[:ROWS], close[:ROWS])
    outputs = [
        engine.forward(
            (Segment(cache, (EngineRow(Kind.GENERATED, ROWS, int(path[ROWS]), path),)),),
            states[ROWS:],
        )[0]
        for cache, path in ((first, spread), (second, close))
    ]
    assert (outputs[0] == outputs[1]).all()


@pytest.mark.parametrize("name", ["torch", "ggml"])
def test_caches_of_other_windows_and_engines_are_refused(make: Make, name: str) -> None:
    engine, other = make(name), make("ggml" if name == "torch" else "torch")
    cache, slots = engine.new_cache(4), np.arange(2, dtype=np.int64)
    for stranger in (engine.new_cache(4, (0, 1)), other.new_cache(4)):
        with pytest.raises(BadShape):
            cache.copy(stranger, slots, slots)
