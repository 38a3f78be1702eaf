"""Which engine a name and its options mean, and what takes over where it can't run."""

import pytest

from hearthring.protocol.errors import BadOption, EngineUnavailable
from hearthring.shards.engines import EngineFallback, EngineOptions, load_engine, options_of
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.torch_engine import TorchEngine
from hearthring.shards.torch_fast import FastTorchEngine
from tests.tiny import write_tiny_gguf

pytestmark = pytest.mark.usefixtures("torch_threads")


def test_devices_and_types_choose_the_engine(tmp_path) -> None:
    file = GgufFile(write_tiny_gguf(tmp_path / "tiny.gguf", quant="Q4_1"))

    def chosen(name, **options):
        return load_engine(name, file, (0, 1), None, 1, options=EngineOptions(**options))

    assert isinstance(chosen("torch"), TorchEngine)
    assert chosen("auto").numerics.name.startswith("ggml-")
    assert "inexact" in chosen("auto", exact=False).numerics.name
    assert isinstance(chosen("torch", exact=False), FastTorchEngine)
    assert isinstance(chosen("auto", compute="bf16"), FastTorchEngine)
    assert isinstance(chosen("torch", compute="bf16"), FastTorchEngine)
    with pytest.raises(BadOption, match="ggml computes on the CPU"):
        chosen("ggml", compute="bf16")
    assert "inexact" in chosen("ggml", exact=False).numerics.name
    assert "prompt-dot" in chosen("ggml", prompt="low").numerics.name
    assert "-fp32/" in chosen("ggml").numerics.name
    told = {"prompt": "fast", "kv": "f16", "repack": True}
    assert options_of(chosen("auto", **told).numerics.name) == EngineOptions(**told)
    for wrong in (*({"device": "tpu"}, {"compute": "fp8"}, {"prompt": "slow"}, {"kv": "q4_0"}),):
        with pytest.raises(BadOption, match="there is no"):
            EngineOptions(**wrong)


def test_where_ggml_fails_torch_takes_over_and_says_so(tmp_path, monkeypatch) -> None:
    def missing():
        raise EngineUnavailable("there is no library", field="engine")

    monkeypatch.setattr("hearthring.shards.ggml_engine.load_ggml", missing)
    file = GgufFile(write_tiny_gguf(tmp_path / "tiny.gguf", quant="Q4_1"))
    said: list[str] = []
    assert isinstance(load_engine("auto", file, (0, 1), None, 1, say=said.append), TorchEngine)
    assert said == ["torch, as ggml can't be used: there is no library"]
    with pytest.warns(EngineFallback, match="no library"):
        load_engine("auto", file, (0, 1), None, 1)
    with pytest.raises(EngineUnavailable, match="no library"):
        load_engine("ggml", file, (0, 1), None, 1)
    wide = GgufFile(write_tiny_gguf(tmp_path / "wide.gguf", quant="F32"))
    assert isinstance(load_engine("auto", wide, (0, 1), None, 1, say=said.append), TorchEngine)
    assert len(said) == 1
