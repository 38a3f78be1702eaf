"""Models for tests: the real SmolLM2 of this user's store, and a tiny random one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hearthring.shards.store import ModelEntry, ModelStore
from tests.tiny import write_tiny_gguf


@pytest.fixture(scope="session", autouse=True)
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Identities and memories of the tests' own: what liars did here isn't the user's business."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def smollm2() -> ModelEntry:
    """SmolLM2-135M-Instruct, downloaded at first use. Mark tests that take it ``model``."""
    return ModelStore().find("smollm2")


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny float32 Llama, written once: not to be changed."""
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def tiny(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    """The tiny Llama in a store of its own, which is this process's store during the test."""
    monkeypatch.setenv("HEARTHRING_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return ModelStore().find(str(tiny_gguf))
