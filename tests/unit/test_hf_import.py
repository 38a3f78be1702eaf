"""Import of Hugging Face folders: llama.cpp loads what comes out, and it computes the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from hearthring.protocol.errors import BadModelFile, ModelNotHere
from hearthring.protocol.tensors import Residual
from hearthring.shards import gguf_output
from hearthring.shards.engine import EngineRow, Kind, Segment
from hearthring.shards.engines import load_engine
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.hf_import import convert_folder, requantise
from hearthring.shards.hf_tensors import interleaved
from hearthring.shards.manifest import quiet
from hearthring.shards.quantise import TYPES
from hearthring.shards.tokenizer import Tokenizer
from hearthring.shards.torch_ends import TorchEnds
from tests.hf import FAMILIES, PRE, TEMPLATE, write_hf_folder, write_settings
from tests.llama_cpp import LlamaVocabulary
from tests.sentences import CORPUS

IDS = [1, 40, 300, 7, 99, 250, 3, 411, 8, 8, 120, 77, 200, 5]


def convert(folder: Path, target: Path, quantise: str | None = None, **changes: Any) -> GgufFile:
    if changes:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
    return GgufFile(convert_folder(folder, target, quantise, "Tiny", quiet))


def logits(file: GgufFile, engine: str = "torch") -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of every position of ``IDS``, with fp32 residuals."""
    ends = TorchEnds.open(file)
    loaded = load_engine(engine, file, (0, file.shape.layers), Residual.FP32, 1)
    cache, path = loaded.new_cache(len(IDS)), np.arange(len(IDS))
    rows = [EngineRow(Kind.PROMPT, i, i, path[: i + 1]) for i in range(len(IDS))]
    states, _ = loaded.forward((Segment(cache, tuple(rows)),), ends.embed(IDS))
    return ends.logits(ends.norm(states))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per family, to be read only."""
    root = tmp_path_factory.mktemp("hf")
    for family in FAMILIES:
        write_hf_folder(root / family, family)
    return root


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_what_llama_cpp_loads(folders: Path, family: str, tmp_path: Path) -> None:
    file = convert(folders / family, tmp_path)
    ours, theirs = Tokenizer.from_gguf(file), LlamaVocabulary(file.path)
    for text in CORPUS:
        assert ours.encode(text, specials=True) == theirs.encode(text, specials=True)
    assert ours.eos_ids == theirs.ends()
    assert file.text("tokenizer.chat_template") == TEMPLATE
    assert file.text("tokenizer.ggml.pre") == PRE.get(family, "default")
    assert ours.add_bos == (family == "llama3")
    assert {file.type_name(name) for name in file.tensor_names()} == {"F32"}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(folders: Path, family: str, tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folders / family, attn_implementation="eager", dtype=torch.float32
    )
    with torch.inference_mode():
        wanted = model(torch.tensor([IDS])).logits[0].numpy()
    found = logits(convert(folders / family, tmp_path))
    assert np.abs(found - wanted).max() / np.abs(wanted).max() < 1e-5


@pytest.mark.parametrize("quantise", TYPES)
def test_every_type_loads_and_runs(wide: GgufFile, quantise: str, tmp_path: Path) -> None:
    file = GgufFile(requantise(wide, tmp_path, quantise, None, quiet))
    kinds = {file.type_name(f"blk.0.{part}.weight") for part in ("attn_q", "ffn_up", "ffn_down")}
    assert quantise.removesuffix("_M") in kinds
    whole = logits(wide)
    ours = {engine: logits(file, engine) for engine in ("torch", "ggml")}
    most = {"F": 0.01, "B": 0.02, "8": 0.05, "6": 0.12, "5": 0.2, "4": 0.4, "3": 0.7, "2": 1.1}
    for found in ours.values():
        error = np.abs(found - whole).mean() / np.abs(whole).mean()
        assert error < most[quantise.removeprefix("Q")[0]]
    # On the same weights the engines differ by ggml's rounding of activations only.
    apart = np.abs(ours["torch"] - ours["ggml"]).mean() / np.abs(whole).mean()
    assert apart < 0.1


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> GgufFile:
    """A model whose rows are wide enough for K types."""
    root = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2}
    return convert(write_hf_folder(root / "hf", "llama", **sizes), root)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_types_of_the_weights_are_kept_or_changed(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = write_hf_folder(tmp_path / "hf", "llama", dtype=dtype)
    kept = convert(folder, tmp_path)
    name = {torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    assert kept.type_name("blk.0.attn_q.weight") == name
    assert kept.type_name("blk.0.attn_norm.weight") == "F32"
    quantised = convert(folder, tmp_path, "Q8_0")
    assert quantised.type_name("blk.0.attn_q.weight") == "Q8_0"
    assert kept.integer("general.file_type") != quantised.integer("general.file_type")
    again = GgufFile(requantise(quantised, tmp_path, "Q4_0", "Other", quiet))
    assert (again.text("general.name"), again.type_name("blk.0.ffn_up.weight")) == ("Other", "Q4_0")
    assert Tokenizer.from_gguf(again).encode("the sky", specials=True)


def test_halves_take_turns() -> None:
    rows = np.arange(8, dtype=np.float32).reshape(8, 1)
    assert interleaved(rows, 4).reshape(-1).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_hf_folder(tmp_path / "hf", "llama", num_hidden_layers=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "model type 'mamba' isn't supported"),
        ({"model_type": ["llama"]}, "isn't supported"),
        ({"hidden_act": "relu"}, "hidden_act: activation 'relu'"),
        ({"num_hidden_layers": 1 << 60}, "num_hidden_layers"),
        ({"num_hidden_layers": 900}, r"blk\.1\.attn_norm\.weight are missing"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "head_count"),
        ({"num_attention_heads": 3, "head_dim": None}, "KV heads"),
        ({"hidden_size": 1 << 31}, "hidden_size|embedding_length"),
        ({"intermediate_size": 97}, "instead of"),
        ({"max_position_embeddings": -1}, "max_position_embeddings"),
        ({"rms_norm_eps": 1e999}, "rms_norm_eps"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type"),
        ({"rope_parameters": {"rope_type": "llama3", "low_freq_factor": 9.0}}, "low_freq_factor"),
        ({"rope_parameters": []}, "rope_parameters"),
        ({"quantization_config": {"quant_method": "gptq"}}, "another quantiser"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"vocab_size": 5, "tie_word_embeddings": False}, r"output\.weight are missing"),
    ],
)
def test_a_configuration_that_cant_be_is_a_named_error(
    llama: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadModelFile, match=message) as caught:
        convert(llama, tmp_path, **changes)
    assert caught.value.field
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.gguf"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "[1]", "isn't a JSON object"),
        ("config.json", "[" * 100_000, "isn't JSON"),
        ("config.json", '{"a": "' + "x" * (1 << 20) + '"}', "too many"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../../etc/passwd"}}', "beside it"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "/x.safetensors"}}', "beside it"),
        ("model.safetensors.index.json", '{"weight_map": {"a": 1}}', "beside it"),
        ("model.safetensors.index.json", '{"weight_map": {}}', "weight_map is missing"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "no.safetensors"}}', "No such file"),
        ("tokenizer.json", "{}", "type None"),
        ("tokenizer.json", '{"model": {"type": "Unigram"}}', "'Unigram'"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": [], "merges": []}}', "vocabulary"),
        ("tokenizer.json", '{"model": {"vocab": {"a": 99999}, "merges": []}}', "the id 99999"),
        ("tokenizer.json", '{"model": {"vocab": {"a": 0}, "merges": ["a"]}}', "isn't a pair"),
        ("tokenizer.json", '{"model": {"vocab": {"\\ud800": 0}, "merges": []}}', "token"),
        ("tokenizer_config.json", '{"chat_template": "\\ud800"}', "isn't Unicode"),
    ],
)
def test_a_file_that_isnt_right_is_a_named_error(
    llama: Path, tmp_path: Path, file: str, content: str, message: str
) -> None:
    (llama / file).write_text(content)
    with pytest.raises(BadModelFile, match=message) as caught:
        convert(llama, tmp_path)
    assert caught.value.field.startswith(str(llama))
    assert not list(tmp_path.glob("*.gguf"))


def test_what_isnt_safetensors_is_refused_with_the_reason(llama: Path, tmp_path: Path) -> None:
    for path in llama.glob("model*"):
        path.unlink()
    with pytest.raises(BadModelFile, match=r"neither model\.safetensors"):
        convert(llama, tmp_path)
    (llama / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(BadModelFile, match=r"pytorch_model\.bin: these are pickled weights"):
        convert(llama, tmp_path)
    (llama / "tokenizer.json").unlink()
    (llama / "config.json").unlink()
    with pytest.raises(BadModelFile, match=r"no config\.json"):
        convert(llama, tmp_path)


def test_a_vocabulary_of_sentencepiece_alone_is_refused_with_a_way_out(
    llama: Path, tmp_path: Path
) -> None:
    (llama / "tokenizer.json").rename(llama / "tokenizer.model")
    with pytest.raises(BadModelFile, match=r"only SentencePiece's tokenizer\.model") as raised:
        convert(llama, tmp_path)
    assert "sentencepiece package" in (raised.value.mend or "")


def test_a_full_disk_leaves_nothing(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_output.os, "fsync", full)
    with pytest.raises(ModelNotHere, match=r"needs \d+ MiB, and 0 MiB are free"):
        convert(llama, tmp_path)
    assert not list(tmp_path.glob("*.gguf"))


def test_specials_and_templates_are_found_where_they_may_be(llama: Path, tmp_path: Path) -> None:
    write_settings(llama, add_bos_token=True, chat_template=[{"name": "default", "template": "x"}])
    file = convert(llama, tmp_path)
    assert (file.text("tokenizer.chat_template"), Tokenizer.from_gguf(file).add_bos) == ("x", True)
    (llama / "chat_template.jinja").write_text("y")
    write_settings(llama, eos_token=None)
    file = convert(llama, tmp_path, eos_token_id=[5, 2])
    assert file.text("tokenizer.chat_template") == "y"
    assert file.integer("tokenizer.ggml.eos_token_id") == 5
