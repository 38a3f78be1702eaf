"""The store: found without hashing twice, safe between processes, honest about what it lacks."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from hearthring.protocol.errors import BadModelFile, BadOption, ModelNotHere, UnknownModel
from hearthring.shards import store as store_module
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.manifest import Manifest
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.shards.store_index import ENVIRONMENT, INDEX
from tests.tiny import write_tiny_gguf


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Paths of files that are hashed, as it happens."""
    paths: list[Path] = []
    build = store_module.build

    def counting(gguf: GgufFile, *rest: Any) -> Manifest:
        paths.append(gguf.path)
        return build(gguf, *rest)

    monkeypatch.setattr(store_module, "build", counting)
    return paths


def test_a_file_is_used_in_place_and_hashed_once(
    store: ModelStore, model: Path, hashed: list[Path]
) -> None:
    entry = store.find(str(model))
    assert (entry.path, entry.name, entry.model_id) == (model, "tiny 0", entry.manifest.model_id)
    assert store.list() == [entry]
    for name in (str(model), entry.model_id, entry.model_id[:6], "tiny 0"):
        assert ModelStore(store.root).find(name) == entry
    assert entry.open().shape == entry.manifest.shape
    assert hashed == [model]
    assert not list(store.root.rglob("*.gguf"))


def test_relative_paths_links_and_home(
    store: ModelStore, model: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = store.import_file(model)
    monkeypatch.chdir(model.parent)
    monkeypatch.setenv("HOME", str(model.parent))
    (model.parent / "link.gguf").symlink_to(model)
    for name in ("tiny.gguf", "./tiny.gguf", "link.gguf", "~/tiny.gguf"):
        assert store.find(name) == entry
    assert hashed == [model]


def test_the_same_content_at_two_paths_is_one_model(
    store: ModelStore, model: Path, tmp_path: Path
) -> None:
    first = store.import_file(model)
    copy = tmp_path / "copy.gguf"
    shutil.copy(model, copy)
    second = store.import_file(copy)
    assert (first.model_id, second.path) == (second.model_id, copy)
    assert store.list() == [first]
    model.unlink()
    assert store.list() == [second]
    assert store.find(first.model_id[:8]) == second


def test_a_touched_file_is_hashed_again(store: ModelStore, model: Path, hashed: list[Path]) -> None:
    entry = store.import_file(model)
    os.utime(model, ns=(1, 1))
    assert entry.open().shape == entry.manifest.shape
    assert len(hashed) == 2
    assert store.find(str(model)).model_id == entry.model_id
    assert len(hashed) == 3


def test_a_changed_file_isnt_opened_as_what_it_was(store: ModelStore, model: Path) -> None:
    entry = store.import_file(model)
    write_tiny_gguf(model, seed=1)
    os.utime(model, ns=(1, 1))
    with pytest.raises(BadModelFile, match=r"changed since.*model import"):
        entry.open()
    again = store.find(str(model))
    assert again.model_id != entry.model_id
    assert again.open().shape == again.manifest.shape
    with pytest.raises(UnknownModel):
        store.find(entry.model_id)


def test_a_file_that_changes_while_it_is_read_isnt_taken(store: ModelStore, model: Path) -> None:
    with pytest.raises(BadModelFile, match="while it was read"):
        store.import_file(model, lambda *_: os.utime(model, ns=(1, 1)))
    assert store.list() == []


def test_a_file_that_is_gone(store: ModelStore, model: Path) -> None:
    entry = store.import_file(model)
    model.unlink()
    assert store.list() == []
    with pytest.raises(ModelNotHere, match="gone"):
        store.find(entry.model_id)
    with pytest.raises(UnknownModel):
        entry.open()


@pytest.mark.parametrize(
    "name", ["", "nothing", "abcdef", "0" * 64, "a\0b", "x/y/z.gguf", "~nobody"]
)
def test_unknown_names_are_told_what_is_known(store: ModelStore, name: str) -> None:
    with pytest.raises(UnknownModel, match=r"smollm2.*hearthring model list"):
        store.find(name)


def test_what_is_no_model_is_refused(store: ModelStore, tmp_path: Path) -> None:
    assert store.here("someone/some-model") is None
    with pytest.raises(UnknownModel, match="no model"):
        store.import_alias("nothing")
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(BadModelFile, match=r"no config\.json in this folder"):
        store.find(str(folder))
    (folder / "config.json").write_text("{}")
    with pytest.raises(BadModelFile, match=r"neither model\.safetensors"):
        store.find(str(folder))
    assert not list(store.root.glob("files/*"))


def test_files_of_another_release_are_hashed_again(store: ModelStore, model: Path) -> None:
    entry = store.import_file(model)
    (store.root / INDEX).rename(store.root / "index-1.json")
    (store.root / "manifests" / f"{entry.model_id}.json").write_text("{}")
    (store.root / "index.json").write_text("[")
    assert [found.model_id for found in store.list()] == [entry.model_id]
    assert store.find("tiny 0").open().shape == entry.manifest.shape


def test_an_ambiguous_name_is_refused(store: ModelStore, model: Path, tmp_path: Path) -> None:
    store.import_file(model)
    store.import_file(write_tiny_gguf(tmp_path / "q.gguf", quant="Q8_0"))
    with pytest.raises(UnknownModel, match="2 models"):
        store.find("tiny 0")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"x": 1}', '{"x": {"model_id": "../x", "size": 1, "mtime_ns": 1}}']
)
def test_a_damaged_index_is_named(store: ModelStore, model: Path, text: str) -> None:
    store.import_file(model)
    (store.root / INDEX).write_text(text)
    with pytest.raises(BadModelFile, match=rf"{INDEX}.*damaged"):
        store.list()


def test_a_damaged_manifest_is_named(store: ModelStore, model: Path, tmp_path: Path) -> None:
    entry = store.import_file(model)
    other = store.import_file(write_tiny_gguf(tmp_path / "other.gguf", seed=1))
    kept = store.root / "manifests" / f"{entry.model_id}.json"
    shutil.copy(store.root / "manifests" / f"{other.model_id}.json", kept)
    with pytest.raises(BadModelFile, match="damaged"):
        store.find(entry.model_id)
    kept.unlink()
    with pytest.raises(BadModelFile, match="damaged"):
        store.list()


def test_a_folder_that_cant_be_written_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadOption, match=ENVIRONMENT):
        ModelStore(tmp_path / "file" / "models").import_file(model)


def test_a_failed_write_leaves_the_store_as_it_was(
    store: ModelStore, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [store.import_file(model)]
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BadOption, match="No space"):
        store.import_file(other)
    assert store.list() == before
    assert not list(store.root.rglob(".new-*"))


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "mine"))
    assert ModelStore().root == tmp_path / "mine"
    monkeypatch.setenv(ENVIRONMENT, "")
    assert ModelStore().root.parts[-2:] == ("hearthring", "models")


def import_all(root: Path, paths: list[Path]) -> list[str]:
    return [ModelStore(root).import_file(path).model_id for path in paths]


def test_four_processes_import_at_once(tmp_path: Path) -> None:
    own = [
        [write_tiny_gguf(tmp_path / f"{i}-{j}.gguf", seed=i * 3 + j, layers=1) for j in range(3)]
        for i in range(4)
    ]
    shared = write_tiny_gguf(tmp_path / "shared.gguf", seed=99)
    root = tmp_path / "models"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.starmap(import_all, [(root, [*paths, shared]) for paths in own])
    ids = {model_id for each in found for model_id in each}
    assert len(ids) == 13
    assert {entry.model_id for entry in ModelStore(root).list()} == ids
    assert not list(root.rglob(".new-*"))


@pytest.mark.model
def test_smollm2_is_here_under_all_its_names(smollm2: ModelEntry) -> None:
    store = ModelStore()
    for name in ("smollm2", smollm2.model_id, smollm2.model_id[:6], str(smollm2.path)):
        assert store.find(name) == smollm2
    assert smollm2.path.is_relative_to(store.root / "files")
    index = json.loads((store.root / INDEX).read_text())
    assert index[str(smollm2.path)]["model_id"] == smollm2.model_id
