"""What a node's memory is planned to hold is what its engine really takes."""

from dataclasses import replace
from pathlib import Path

import pytest

from hearthring.shards.engines import EngineOptions, load_engine
from hearthring.shards.footprint import Footprint, footprint
from hearthring.shards.ggml_kv import GgmlKv
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.manifest import Manifest, build
from tests.tiny import write_tiny_gguf

FREE = 1 << 30
VALUES = 36_992  # of a tiny layer: 2·64·64 + 2·32·64 + 3·128·64, and two norms
LOW = EngineOptions(prompt="low")


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "q.gguf", quant="Q4_1")


@pytest.fixture(scope="module")
def manifest(quantised: Path) -> Manifest:
    return build(GgufFile(quantised))


def test_rows_are_counted_as_the_engine_keeps_them(quantised: Path, manifest: Manifest) -> None:
    for engine in ("ggml", "torch"):
        loaded = load_engine(engine, GgufFile(quantised), (0, 4), None, 1, options=LOW)
        cache = loaded.new_cache(10)
        held = cache.rows[..., :10, :].nbytes if isinstance(cache, GgmlKv) else 8 * cache.k.numel()
        assert footprint(manifest, engine, LOW, FREE).row == held // 40
    wide = replace(manifest, shape=replace(manifest.shape, head_width=32))
    cache = GgmlKv((0, 4), 10, 2, 32, "q8_0")
    options = EngineOptions(kv="q8_0")
    assert footprint(wide, "auto", options, FREE).row == cache.rows[..., :10, :].nbytes // 40


def test_what_engines_keep_beside_the_mapped_file_counts(manifest: Manifest) -> None:
    norms = 2 * 64 * 4
    mapped = (VALUES - 128) // 32 * 20 + norms
    assert footprint(manifest, "auto", LOW, FREE).weights(4) == 4 * mapped
    assert footprint(manifest, "torch", LOW, FREE).weights(4) == 4 * 4 * VALUES
    half = footprint(manifest, "ggml", EngineOptions(prompt_memory=8 * VALUES), FREE)
    assert half.weights(1) == mapped + 4 * VALUES
    assert half.weights(4) == 4 * mapped + 8 * VALUES
    assert footprint(manifest, "ggml", EngineOptions(prompt_memory=None), FREE).budget == FREE // 8
    assert footprint(manifest, "ggml", EngineOptions(prompt_memory=0), FREE).weights(1) == mapped


def test_packed_copies_count_for_types_that_have_a_layout(
    manifest: Manifest, tmp_path: Path
) -> None:
    options = EngineOptions(repack=True)
    mapped = footprint(manifest, "ggml", LOW, FREE).layer
    assert footprint(manifest, "ggml", options, FREE).layer == mapped  # Q4_1 has none
    other = build(GgufFile(write_tiny_gguf(tmp_path / "q.gguf", quant="Q4_0")))
    norms = 2 * 64 * 4
    plain = footprint(other, "ggml", EngineOptions(), FREE).layer
    assert footprint(other, "ggml", options, FREE).layer == 2 * plain - norms


def test_rows_get_a_fourth_of_the_memory_or_what_weights_leave() -> None:
    takes = Footprint(layer=100, row=2)
    assert takes.kv_rows(8_000, 10) == 2_000 // 20
    assert takes.kv_rows(1_200, 10) == 200 // 20
    assert takes.kv_rows(800, 10) == 50 // 20
    assert takes.kv_rows(1 << 60, 1) == 1 << 20


def test_a_device_takes_layers_with_their_copies_until_the_budget_is_spent() -> None:
    takes = Footprint(layer=100, row=2, wide=300, budget=600)
    assert takes.layers(800, 30) == 1
    assert takes.layers(1_600, 30) == 2
    assert takes.layers(4_000, 30) == 14  # 14 · 100 + 600
    assert takes.layers(4_000, 30, most=3) == 3
    assert takes.layers(1 << 30, 30) == 30
