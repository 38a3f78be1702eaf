"""Parts on this disk: their bytes, and the budget."""

import os
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st

from hearthring.cli import main
from hearthring.node.provider import Provider
from hearthring.node.uploads import Uploads
from hearthring.protocol.errors import (
    BadModelFile,
    BadOption,
    DiskFull,
    ModelNotHere,
)
from hearthring.protocol.tensors import Residual
from hearthring.shards.disk import make_room, part_files, prune, read_size
from hearthring.shards.engine import EngineRow, Kind, Segment
from hearthring.shards.engines import load_engine
from hearthring.shards.layer_store import FileParts, LayerStore
from hearthring.shards.parts import (
    ENDS,
    Extent,
    PartBytes,
    all_parts,
    describe_parts,
    layers_in,
    read_fields,
    read_text,
    size_of,
    window_parts,
)
from hearthring.shards.pieces import GgufPieces
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.shards.tokenizer import Tokenizer
from tests.sentences import SPECIALS, train, write_sentences_gguf
from tests.tiny import write_tiny_gguf


def copy_parts(entry: ModelEntry, store: LayerStore, *parts: str) -> None:
    """Put parts of a whole model into a folder, as a fetch would."""
    source = FileParts(entry.open(), entry.manifest)
    for part in parts:
        with source.open(part) as opened:
            coming = store.begin(part, opened.bytes.size)
            assert coming is not None
            for index, piece in enumerate(opened.bytes.chunks(1 << 20)):
                coming.write(index, piece)
            assert coming.finish()
            coming.close()


@pytest.fixture
def adopted(tiny: ModelEntry, tmp_path: Path) -> ModelEntry:
    """The tiny model in another store, none of it there yet."""
    return ModelStore(tmp_path / "other").adopt(tiny.manifest, "small")


@given(st.data())
def test_reads_and_writes_go_where_they_should(tmp_path_factory, data) -> None:  # type: ignore[no-untyped-def]
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    known = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    whole = bytes(data.draw(st.binary(min_size=sum(lengths), max_size=sum(lengths))))
    path = tmp_path_factory.mktemp("bytes") / "file"
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        pieces, at, place = list[bytes | Extent](), 0, 7
        for length, is_known in zip(lengths, known, strict=True):
            pieces.append(whole[at : at + length] if is_known else Extent(place, length))
            at, place = at + length, place + length + 5
        os.truncate(file, place)
        part = PartBytes(pieces, file)
        step = data.draw(st.integers(1, 50))
        for start in range(0, part.size, step):
            part.write(start, whole[start : start + step])
        assert part.whole() == whole
        low = data.draw(st.integers(0, part.size))
        count = data.draw(st.integers(0, part.size - low))
        assert part.read(low, count) == whole[low : low + count]
        os.truncate(file, 7)
        if not all(known):
            with pytest.raises(BadModelFile, match="cut short"):
                part.whole()
    finally:
        os.close(file)


def test_names_of_parts(tiny: ModelEntry) -> None:
    assert all_parts(tiny.manifest) == (*ENDS, "layer0", "layer1", "layer2", "layer3")
    assert layers_in(("layer10", "head", "layer2", "layer02", "layer")) == (2, 10)
    assert describe_parts(("layer0", "layer1", "layer3", "head")) == "layers 0-1 and 3, head"
    for wrong in ("layer4", "layer-1", "layer01", "", "../x", "layer99999"):
        with pytest.raises(ModelNotHere, match="no part"):
            size_of(tiny.manifest, wrong)


def test_a_part_of_the_manifests_size_and_hash_only(adopted: ModelEntry, tiny: ModelEntry) -> None:
    store = adopted.parts
    size = size_of(tiny.manifest, "layer1") or 0
    coming = store.begin("layer1", size)
    assert coming is not None
    assert store.begin("layer1", size) is None  # somebody has it in hand
    assert coming.finish() is False
    coming.close()
    assert store.here() == ()
    copy_parts(tiny, store, "layer1", "tokenizer", "template")
    assert store.here() == ("tokenizer", "template", "layer1")
    assert store.path("layer1").stat().st_mode & 0o222 == 0
    ours = GgufPieces(store)
    assert ours.text("tokenizer.chat_template") == tiny.open().text("tokenizer.chat_template")
    # Other tools can read a part's file too.
    names = [tensor.name for tensor in GGUFReader(store.path("layer1")).tensors]
    assert names == list(tiny.open().layer_names(1))


@pytest.mark.parametrize("name", ["Tiny Phi-3", "tiny"])
def test_texts_are_read_as_with_the_whole_file(tmp_path: Path, name: str) -> None:
    """Phi-3's special tokens swallow blanks, and only the model's name tells that it is one."""
    file = write_sentences_gguf(tmp_path / "whole.gguf", train(), name=name)
    whole = ModelStore(tmp_path / "here").import_file(file)
    adopted = ModelStore(tmp_path / "other").adopt(whole.manifest, "small")
    copy_parts(whole, adopted.parts, "tokenizer")
    text = f"{SPECIALS[-1]}\n Why?"
    ids = [Tokenizer.from_gguf(e.open()).encode(text, specials=True) for e in (whole, adopted)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a": null}', b'{"a": [1, "x"]}', b"[" * 9999])
def test_a_wrong_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises(BadModelFile, match="tokenizer"):
        read_fields(data)
    if data:
        with pytest.raises(BadModelFile, match="template"):
            read_text(data)


def test_sizes() -> None:
    assert [read_size(t, "x") for t in ("0", "1kb", "1.5 GiB", "20G", "3TB", "7B")] == [
        *(0, 1024, 3 << 29, 20 << 30, 3 << 40, 7)
    ]
    for wrong in ("", "-1", "GB", "1XB", "1e9", "9" * 400, f"1.{'9' * 400}GB"):
        with pytest.raises(BadOption, match="20GB"):
            read_size(wrong, "x")


def test_the_longest_unused_goes_first_and_nothing_in_use(
    adopted: ModelEntry, tiny: ModelEntry, tmp_path: Path
) -> None:
    root = tmp_path / "other"
    copy_parts(tiny, adopted.parts, *window_parts(0, 4))
    own = write_tiny_gguf(root / "files-of-mine.gguf", seed=4)
    for age, layer in enumerate((2, 0, 3, 1)):
        os.utime(adopted.parts.path(f"layer{layer}"), ns=(age + 1, age + 1))
    opened = adopted.open()
    opened.raw("blk.0.attn_q.weight")  # in use from here on, and used just now
    sizes = {file.path.name: file.bytes for file in part_files(root)}
    gone = prune(root, sum(sizes.values()) - 1)
    assert [file.path.name for file in gone] == ["layer2.gguf"]
    gone = prune(root, 0)
    assert [file.path.name for file in gone] == ["layer3.gguf", "layer1.gguf"]
    assert adopted.parts.here() == ("layer0",)
    with pytest.raises(DiskFull, match="budget"):
        make_room(root, 10 << 20, 1 << 20)
    with pytest.raises(DiskFull, match="free"):
        make_room(root, 1 << 60, None)
    del opened
    make_room(root, 1 << 20, 1 << 20)
    assert adopted.parts.here() == ()
    assert own.exists()


def test_a_cut_off_part_is_evicted_but_not_one_in_hand(
    adopted: ModelEntry, tmp_path: Path, tiny: ModelEntry
) -> None:
    size = size_of(tiny.manifest, "layer1") or 0
    coming = adopted.parts.begin("layer1", size)
    assert coming is not None
    coming.write(0, bytes(5000))
    assert prune(tmp_path / "other", 0) == []
    coming.close()
    assert [file.path.name for file in prune(tmp_path / "other", 0)] == ["layer1.gguf.coming"]


def test_what_is_here_is_shown(adopted: ModelEntry, tiny: ModelEntry, tmp_path: Path) -> None:
    copy_parts(tiny, adopted.parts, "layer0", "head")
    store = ModelStore(tmp_path / "other")
    (entry,) = store.list()
    assert (entry.name, entry.whole, entry.model_id) == ("small", False, tiny.model_id)
    assert store.find("small") == store.find(tiny.model_id[:8]) == entry
    assert entry.missing(("layer0", "layer1")) == ("layer1",)
    store.import_file(tiny.path)
    assert [entry.whole for entry in store.list()] == [True]


def test_the_command_line_lists_and_prunes(
    adopted: ModelEntry,
    tiny: ModelEntry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy_parts(tiny, adopted.parts, "layer0", "layer1")
    monkeypatch.setenv("HEARTHRING_MODELS", str(tmp_path / "other"))
    assert main(["model", "list"]) == 0
    assert "4 layers (layers 0-1 here)" in capsys.readouterr().out
    assert main(["model", "prune", "--disk-budget", "1GB"]) == 0
    assert "removed 0 files" in capsys.readouterr().out
    assert main(["model", "prune"]) == 0
    assert "removed 2 files" in capsys.readouterr().out
    assert adopted.parts.here() == ()


@pytest.mark.parametrize("engine", ["auto", "ggml", "torch"])
def test_an_engine_needs_its_own_layers_only(
    adopted: ModelEntry, tiny: ModelEntry, engine: str
) -> None:
    copy_parts(tiny, adopted.parts, "layer2")
    ours, theirs = (
        load_engine(engine, entry.open(), (2, 3), Residual.FP32, 1) for entry in (adopted, tiny)
    )
    assert ours.numerics == theirs.numerics
    row = EngineRow(Kind.PROMPT, 0, 0, np.zeros(1, np.int64))
    states = np.linspace(-1, 1, 64, dtype=np.float32)[None]
    outs = [e.forward((Segment(e.new_cache(4), (row,)),), states)[0] for e in (ours, theirs)]
    assert (outs[0] == outs[1]).all()


def test_a_file_that_is_removed_while_it_is_opened_is_named(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    entry = ModelStore(tmp_path / "store").find(str(path))
    gguf = entry.open()
    path.unlink()
    with pytest.raises(ModelNotHere, match="no such file") as caught:
        FileParts(gguf, entry.manifest)
    assert caught.value.field == str(path)
    assert caught.value.mend
    with pytest.raises(ModelNotHere, match="there is no such file") as told:
        Provider(entry, Uploads(0))._source()
    assert str(path) not in str(told.value), "a peer is told of no paths"


def test_a_disk_that_gives_no_bytes_is_named(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with FileParts(tiny.open(), tiny.manifest).open("layer0") as opened:
        monkeypatch.setattr(os, "pread", broken)
        with pytest.raises(BadModelFile, match="input/output error"):
            opened.bytes.read(0, opened.bytes.size)
