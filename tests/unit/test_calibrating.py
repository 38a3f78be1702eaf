"""Calibrating a tiny model, and finding what was kept."""

from pathlib import Path

import pytest

from hearthring.cli import main
from hearthring.client.calibrations import calibration_of, save
from hearthring.client.texts import LONGEST, SHORTEST, write_texts
from hearthring.protocol.errors import BadModelFile
from hearthring.protocol.tensors import Residual
from hearthring.shards.ends import open_ends
from hearthring.shards.engines import load_engine
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.verify.tolerance import NOTHING, Calibration, Tolerance


def test_texts_are_drawn_alike_and_again(tiny: ModelEntry) -> None:
    gguf = tiny.open()
    engine = load_engine("torch", gguf, (0, gguf.shape.layers), Residual.FP32, 1)
    ends = open_ends("torch", gguf, Residual.FP32, 1)
    found = write_texts(gguf, engine, ends, 12, 3)
    assert found == write_texts(gguf, engine, ends, 12, 3)
    assert found != write_texts(gguf, engine, ends, 12, 4)
    assert all(SHORTEST <= len(text.ids) <= LONGEST for text in found)
    assert all(0 < text.prompt < len(text.ids) == len(text.kinds) for text in found)


def test_calibrate_a_model(
    tiny: ModelEntry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "thresholds.json"
    command = ["calibrate", str(tiny.path), "--texts", "8", "--residual", "fp16", "--threads", "1"]
    assert main([*command, "--output", str(target)]) == 0
    said = capsys.readouterr().out
    found = Calibration.from_json(target.read_bytes())
    assert found.model_id == tiny.model_id
    assert (found.texts, found.held_out) == (8, 2 * len(found.sorts))
    assert {"torch/fp32/fp16", "ggml/kv-f16/prompt-dot/fp16"} <= set(found.sorts)
    for tolerance in found.sorts.values():
        assert len(tolerance.exp) == len(tolerance.mantissa) == 5  # four layers and the norm
        assert len(tolerance.deviation) == 4
        assert tolerance.bound == 0.2
        assert 0 < tolerance.tail <= 0.2
        assert 0 < tolerance.cell_added < 0.5
        assert 0 < tolerance.cell_stored < 0.5
        assert list(tolerance.deviation) == sorted(tolerance.deviation)
    assert "20.0%" in said
    assert calibration_of(tiny.model_id) == NOTHING
    assert main([*command[:4], "--residual", "fp8"]) != 0
    assert main([*command, "--output", str(tmp_path / "no" / "such")]) != 0


def test_what_was_kept_is_found_again(tiny: ModelEntry) -> None:
    known = Calibration(tiny.model_id, {"torch/fp32/fp32": Tolerance()}, 8, 2, 0)
    path = Path(save(known))
    try:
        assert path.is_relative_to(ModelStore().root)
        assert calibration_of(tiny.model_id) == known
        path.write_text("{}")
        with pytest.raises(BadModelFile):
            calibration_of(tiny.model_id)
    finally:
        path.unlink()
    assert calibration_of(tiny.model_id) == NOTHING
    assert calibration_of("../" * 20) == NOTHING
