"""A model that was trained to be read early drafts for itself, at a client that has few layers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hearthring.client.api import AsyncClient
from hearthring.client.pace import Fixed
from hearthring.protocol.errors import BadModelFile, BadOption
from hearthring.protocol.memory import MemoryTransport
from hearthring.shards.hf_config import convert_config
from hearthring.shards.manifest import EARLY_EXIT, Manifest
from hearthring.shards.parts import ENDS
from hearthring.shards.store import ModelEntry, ModelStore
from tests.memory_ring import memory_swarm
from tests.schedules import CUTS
from tests.tiny import write_tiny_gguf

EXIT = 2


@pytest.fixture
def early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    """A tiny model whose layers behind the exit change little, in a store of its own."""
    monkeypatch.setenv("HEARTHRING_MODELS", str(tmp_path / "nodes"))
    return ModelStore().find(str(write_tiny_gguf(tmp_path / "early.gguf", early_exit=EXIT)))


async def test_a_client_fetches_the_first_layers_and_guesses_with_them(
    early: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_swarm(early, CUTS) as swarm:
        monkeypatch.setenv("HEARTHRING_MODELS", str(tmp_path / "client"))  # nothing is here
        client = AsyncClient(
            [swarm.nodes[0].invitation], threads=1, transport=MemoryTransport(swarm.network)
        )
        swarm.stack.push_async_callback(client.close)
        client.answering.pace = lambda: Fixed(4)
        for warm in (0.0, 1.0):
            asked = {"max_tokens": 40, "temperature": warm, "seed": 3}
            plain = await client.generate("the sky is", draft="none", **asked)  # type: ignore[arg-type]
            answer = await client.generate("the sky is", draft="early-exit", **asked)  # type: ignore[arg-type]
            assert answer.token_ids == plain.token_ids
            assert answer.guessing.draft == "early-exit"
            assert answer.guessing.hits > 0.6 * answer.guessing.guesses > 6
        entry = await client.model_entry()
        assert not entry.whole
        assert set(entry.parts.here()) == {*ENDS, "layer0", "layer1"}


async def test_a_model_that_was_not_trained_for_it_is_refused(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, CUTS) as swarm:
        with pytest.raises(BadOption, match="wasn't trained to be read early"):
            await swarm.client().generate("the sky is", draft="suffix+early-exit")


def test_the_manifest_says_so_and_others_keep_their_ids(
    early: ModelEntry, tiny: ModelEntry
) -> None:
    assert early.manifest.early_exit == EXIT
    assert Manifest.from_json(early.manifest.to_json()) == early.manifest
    assert "early_exit" not in tiny.manifest.to_json()
    assert replace(tiny.manifest, early_exit=1).model_id != tiny.model_id
    for wrong in (0, 4, -1, True, "2"):
        told = json.loads(early.manifest.to_json()) | {"early_exit": wrong}
        with pytest.raises(BadModelFile, match="doesn't parse"):
            Manifest.from_json(json.dumps(told, sort_keys=True, separators=(",", ":")))


def test_an_exit_beyond_the_layers_is_refused(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "wrong.gguf", early_exit=9)
    with pytest.raises(BadModelFile, match="early_exit"):
        ModelStore(tmp_path / "models").find(str(path))


def test_a_folder_of_hugging_face_says_it_in_its_config() -> None:
    numbers = {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 100, "rms_norm_eps": 1e-5}
    heads = {"num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 512}
    config = {"model_type": "llama", "early_exit": EXIT, **numbers, **heads}
    assert convert_config(config).metadata[EARLY_EXIT] == EXIT
    with pytest.raises(BadModelFile, match="early_exit"):
        convert_config({**config, "early_exit": "two"})
