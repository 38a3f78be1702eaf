"""Taking models in: from files, folders and the hub, once, under the name the user gives."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from hearthring.cli import main
from hearthring.protocol.errors import BadOption, ModelNotHere, UnknownModel
from hearthring.protocol.tensors import Residual
from hearthring.shards import importing
from hearthring.shards.hub import HubName, download, hub_name
from hearthring.shards.importing import import_model
from hearthring.shards.store import ModelStore
from tests.hf import write_hf_folder
from tests.hub import serving
from tests.tiny import write_tiny_gguf


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder, to be read only."""
    return write_hf_folder(tmp_path_factory.mktemp("saved") / "tiny", "llama", num_hidden_layers=1)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "tiny-llama")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setenv("HEARTHRING_MODELS", str(tmp_path / "models"))
    return ModelStore()


def test_a_folder_is_converted_once(
    store: ModelStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = store.find(str(folder))
    assert made.path == store.root / "files" / f"tiny-llama-{made.model_id[:8]}.gguf"
    assert (made.name, made.manifest.residual) == ("tiny-llama", Residual.FP32)
    assert store.find("tiny-llama") == store.here(made.model_id) == made
    smaller = import_model(store, str(folder), quantise="q8_0", name="small")
    assert (smaller.name, smaller.manifest.residual) == ("small", Residual.FP16)
    assert smaller.path.stat().st_size < made.path.stat().st_size
    assert {entry.name for entry in store.list()} == {"tiny-llama", "small"}
    with monkeypatch.context() as patch:
        patch.setattr(importing, "convert_folder", None)
        assert import_model(store, str(folder)) == made
        assert import_model(store, str(folder), quantise="Q8_0", name="small") == smaller
    write_hf_folder(folder, "llama", num_hidden_layers=2)
    assert store.find(str(folder)).manifest.shape.layers == 2


def test_what_a_killed_process_left_is_removed(store: ModelStore, folder: Path) -> None:
    (store.root / "files").mkdir(parents=True)
    (store.root / "files" / ".new-1.gguf").write_bytes(b"half")
    made = store.find(str(folder))
    assert list((store.root / "files").iterdir()) == [made.path]


def test_a_file_gets_other_types_and_a_name(store: ModelStore, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    own = import_model(store, str(path), name="mine")
    assert (own.name, own.path) == ("mine", path)
    assert store.find("mine").model_id == own.model_id
    packed = import_model(store, str(path), quantise="Q4_0")
    assert (packed.name, packed.path.parent) == ("tiny 0 Q4_0", store.root / "files")
    assert packed.manifest.types[0].count("Q4_0") == 7
    with pytest.raises(BadOption, match="quantise: there is no 'Q9'"):
        import_model(store, str(path), quantise="Q9")
    with pytest.raises(BadOption, match="name: "):
        import_model(store, str(path), name="a\nb")


def test_a_context_makes_another_model_of_a_file(store: ModelStore, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    whole = import_model(store, str(path), name="mine")
    short = import_model(store, str(path), context=100)
    assert (short.name, short.manifest.shape.context) == ("mine", 100)
    assert short.model_id != whole.model_id
    assert short.manifest.layers == whole.manifest.layers
    assert store.find(str(path)) == store.find("mine") == short
    assert short.open().shape == short.manifest.shape
    os.utime(path, ns=(1, 1))  # looks as if it had changed: hashed again, with the same context
    assert short.open().shape == short.manifest.shape
    packed = import_model(store, str(path), quantise="Q8_0", context=100)
    assert packed.open().shape.context == 100
    for wrong in (0, 513):
        with pytest.raises(BadOption, match="context"):
            import_model(store, str(path), context=wrong)


def test_names_of_the_hub() -> None:
    assert hub_name("org/name") == HubName("org/name")
    assert str(hub_name("o/n-1.5:sub/x.Q4.gguf")) == "o/n-1.5:sub/x.Q4.gguf"
    for text in ("name", "a/b/c", "../b", "a/..", "a/b:x.bin", "a/b:../x.gguf", "a b/c", ""):
        assert hub_name(text) is None


def test_the_hub_gives_what_is_needed_once(
    store: ModelStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    (folder / "README.md").write_text("hello")
    asked: list[str] = []
    with serving({"org/tiny": folder}, asked) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        made = store.find("org/tiny")
        with pytest.raises(UnknownModel, match="the hub has no org/other"):
            store.find("org/other")
        with pytest.raises(UnknownModel, match=r"no x\.gguf.*GGUF files: none"):
            store.find("org/tiny:x.gguf")
    assert sorted(set(asked)) == sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in ("pytorch_model.bin", "README.md", "generation_config.json")
    )
    assert made.name == "org/tiny"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert store.find("org/tiny").model_id == made.model_id
    assert not (store.root / "hub" / "org--tiny" / "config.json").exists()
    with pytest.raises(ModelNotHere, match=r"org/new couldn't be fetched.*check the connection"):
        store.find("org/new")
    assert store.here("org/new") is None


def test_one_gguf_file_of_the_hub(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in ("a.gguf", "b.gguf"):
        write_tiny_gguf(folder / name, seed=ord(name[0]))
    with serving({"org/two": folder}, asked := []) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(UnknownModel, match=r"2 GGUF files \(say which.*org/two:a\.gguf"):
            store.find("org/two")
        made = store.find("org/two:b.gguf")
    assert set(asked) == {"b.gguf"}
    assert made.path.parent == store.root / "files"
    assert made.open().path.read_bytes() == (folder / "b.gguf").read_bytes()


def test_an_interrupted_download_is_not_waited_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, asked, fetched = threading.Event(), list[str](), tmp_path / "fetched"
    before = set(threading.enumerate())

    def pressed(label: str, done: int, total: int) -> None:
        if any(name.endswith(".safetensors") for name in asked):
            raise KeyboardInterrupt

    with serving({"org/tiny": folder}, asked, gate=gate) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(KeyboardInterrupt):
            download(HubName("org/tiny"), fetched, pressed)
        assert not list(fetched.glob("*.safetensors"))
        gate.set()
        for thread in set(threading.enumerate()) - before:
            if thread.name == "hub":
                thread.join()
    assert list(fetched.glob("*.safetensors"))  # what was on its way came, for the next time


def test_a_broken_download_is_gone_on_with(
    store: ModelStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's own retries
    asked: list[str] = []
    with serving({"org/tiny": folder}, asked, frozenset(weights[-1:])) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(ModelNotHere, match=r"org/tiny couldn't be fetched"):
            store.find("org/tiny")
    assert weights[0] in asked
    asked.clear()
    with serving({"org/tiny": folder}, asked) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert store.find("org/tiny").manifest.shape.layers == 1
    assert asked == weights[-1:]


def test_the_command(store: ModelStore, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "import", str(folder), "--quantise", "Q8_0", "--name", "tiny"]) == 0
    assert capsys.readouterr().out.startswith("tiny  ")
    assert main(["model", "show", "tiny", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["residual"], shown["types"]) == ("fp16", ["F32", "Q8_0"])
    assert main(["model", "import", str(folder), "--quantise", "Q9"]) == 64
    assert "one of F32, F16" in capsys.readouterr().err
    (folder / "config.json").write_text("{")
    assert main(["model", "import", str(folder)]) == 65
    assert "config.json: this isn't JSON" in capsys.readouterr().err
