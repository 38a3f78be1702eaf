"""Parts of a tiny model, fetched from honest peers: these alone, with the file's own bytes."""

import asyncio
import gc
from pathlib import Path

import numpy as np
import pytest

from hearthring.protocol.errors import DiskFull, ModelNotHere
from hearthring.shards.layer_store import FileParts
from hearthring.shards.parts import all_parts, size_of, window_parts
from hearthring.shards.pieces import GgufPieces
from hearthring.shards.store import ModelEntry
from tests.providers import PIECE, Swarm


async def test_exactly_the_wanted_layers_come_and_nothing_else(swarm: Swarm) -> None:
    one, other = await swarm.provider(), await swarm.provider()
    parts = window_parts(1, 3)
    assert sorted(await swarm.fetch(parts)) == sorted(parts)
    assert swarm.store.here() == parts
    assert swarm.same(parts)
    assert {path.name for path in swarm.store.folder.iterdir()} == {"layer1.gguf", "layer2.gguf"}
    wanted = sum(size_of(swarm.entry.manifest, part) or 0 for part in parts)
    assert wanted < swarm.store.bytes() < wanted + 4096 * len(parts)
    assert swarm.pieces(one) + swarm.pieces(other) == 2 * -(-wanted // 2 // PIECE)
    assert min(swarm.pieces(one), swarm.pieces(other)) > 5
    with pytest.raises(ModelNotHere, match="layer0"):
        GgufPieces(swarm.store).raw("blk.0.attn_q.weight")


async def test_a_whole_model_of_parts_is_the_model(swarm: Swarm) -> None:
    await swarm.provider()
    parts = all_parts(swarm.entry.manifest)
    await swarm.fetch(parts)
    ours, theirs = GgufPieces(swarm.store), swarm.entry.open()
    assert ours.tensor_names() == theirs.tensor_names()
    for name in ours.tensor_names():
        kind, shape, data = ours.raw(name)
        assert (kind, shape) == theirs.raw(name)[:2]
        assert (data == theirs.raw(name)[2]).all()
        assert data.ctypes.data % 32 == 0
        assert not data.flags.writeable
    mine, his = ours.fields("tokenizer."), theirs.fields("tokenizer.")
    assert mine.keys() == his.keys()
    assert all(np.array_equal(mine[key], his[key]) for key in mine)


async def test_who_was_fetched_from_can_be_fetched_from(swarm: Swarm, tmp_path: Path) -> None:
    await swarm.provider()
    await swarm.fetch(window_parts(0, 2))
    second = Swarm(swarm.entry, tmp_path / "second")
    folder, manifest = swarm.store.folder, swarm.entry.manifest
    await second.provider(entry=ModelEntry(manifest, folder, "x", manifest.model_id))
    await second.fetch(("layer1",))
    assert second.same(("layer1",))
    with pytest.raises(ModelNotHere, match=r"layer3 couldn't be fetched.*none of 1 nodes has it"):
        await second.fetch(("layer3",), patience=0.0)
    await second.close()


def test_a_part_of_a_file_stays_open_for_as_long_as_it_is_read(tiny: ModelEntry) -> None:
    parts = FileParts(tiny.open(), tiny.manifest)
    with parts.open("layer0") as opened:
        first = opened.bytes.read(0, 100)
        del parts
        gc.collect()
        assert opened.bytes.read(0, 100) == first


async def test_two_at_once_share_one_download(swarm: Swarm) -> None:
    node = await swarm.provider()
    await asyncio.gather(swarm.fetch(("layer0",)), swarm.fetch(("layer0",)))
    assert swarm.pieces(node) == -(-(size_of(swarm.entry.manifest, "layer0") or 0) // PIECE)
    assert swarm.same(("layer0",))


async def test_what_another_has_just_made_is_not_begun_again(swarm: Swarm) -> None:
    await swarm.provider()
    await swarm.fetch(("layer0",))
    assert swarm.store.begin("layer0", size_of(swarm.entry.manifest, "layer0") or 0) is None
    assert not swarm.store.coming("layer0").exists()
    assert swarm.same(("layer0",))


async def test_a_full_disk_is_named(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    await swarm.provider()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(DiskFull, match="no space left"):
        await swarm.fetch(("layer0",))
    assert swarm.store.here() == ()
