"""GGUF files: what is read equals the reference reader's, and what is wrong is one clear error."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from hearthring.protocol.errors import BadModelFile, UnknownModel
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.store import ModelEntry
from tests.tiny import tiny_weights, write_tiny_gguf


def test_shape(tiny_gguf: Path) -> None:
    shape = GgufFile(tiny_gguf).shape
    assert (shape.layers, shape.width, shape.heads, shape.kv_heads) == (4, 64, 4, 2)
    assert (shape.head_width, shape.ffn, shape.vocabulary, shape.context) == (16, 128, 300, 512)
    assert shape.norm_epsilon == pytest.approx(1e-5)
    assert (shape.rope_base, shape.tied_head, shape.interleaved_rope) == (10_000.0, True, True)


def same_as_reference(path: Path) -> None:
    reader, ours = gguf.GGUFReader(path), GgufFile(path)
    assert ours.tensor_names() == tuple(sorted(tensor.name for tensor in reader.tensors))
    for tensor in reader.tensors:
        kind, shape, data = ours.raw(tensor.name)
        assert kind == tensor.tensor_type
        assert list(shape) == tensor.shape.tolist()[::-1]
        assert data.tobytes() == tensor.data.tobytes()
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        value, wanted = ours.fields(key)[key], field.contents()
        found = list(value) if isinstance(value, tuple | np.ndarray) else value
        assert found == wanted, key


def test_reads_what_the_reference_reader_reads(tmp_path: Path) -> None:
    for quant in ("F32", "Q4_1", "Q8_0"):
        same_as_reference(write_tiny_gguf(tmp_path / f"{quant}.gguf", quant=quant))


@pytest.mark.model
def test_reads_what_the_reference_reader_reads_of_smollm2(smollm2: ModelEntry) -> None:
    same_as_reference(smollm2.path)


@pytest.mark.parametrize(("quant", "error"), [("F32", 0.0), ("Q8_0", 0.02), ("Q4_1", 0.15)])
def test_dequantised(tmp_path: Path, quant: str, error: float) -> None:
    ours = GgufFile(write_tiny_gguf(tmp_path / "m.gguf", seed=3, quant=quant, layers=1))
    for name, wanted in tiny_weights(3, 1).items():
        found = ours.dequantised(name)
        assert (found.shape, found.dtype) == (wanted.shape, np.float32)
        assert np.abs(found - wanted).max() <= error
        found[...] = 0  # a copy of its own, which may be changed
    assert ours.dequantised("output_norm.weight").any()


@pytest.mark.parametrize(
    "kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q6_K"]
)
def test_every_common_type_is_widened(tmp_path: Path, kind: str) -> None:
    number = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[number]
    path = write_tiny_gguf(tmp_path / "m.gguf", layers=1)
    ours = GgufFile(path)
    rows = np.random.default_rng(0).integers(0, 120, (3, size * 2)).astype(np.uint8)
    tensor = ours._header.tensors["output_norm.weight"]
    wide = (3, 2 * block)
    ours._header.tensors["x"] = type(tensor)("x", int(number), wide, 0, rows.size)
    ours._bytes = rows.ravel()
    assert (ours.dequantised("x").shape, ours.type_name("x")) == (wide, kind)


def test_weights_are_mapped_and_cant_be_written(tiny_gguf: Path) -> None:
    data = GgufFile(tiny_gguf).raw("blk.0.attn_q.weight")[2]
    assert not data.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        data[0] = 1


def test_paths_that_arent_files(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="no such file"):
        GgufFile(tmp_path / "none.gguf")
    with pytest.raises(UnknownModel, match="no such file"):
        GgufFile(tmp_path / "none" / "none.gguf")
    with pytest.raises(BadModelFile, match="a folder"):
        GgufFile(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadModelFile, match="not a regular file"):
        GgufFile(tmp_path / "pipe")
    with pytest.raises(BadModelFile, match="can't be read"):
        GgufFile("a\0b")


def test_a_tensor_or_field_of_another_type_is_an_error(tiny_gguf: Path) -> None:
    ours = GgufFile(tiny_gguf)
    assert (ours.text("no"), ours.integer("no"), ours.flag("no"), ours.texts("no")) == (
        *(None, None, None, ()),
    )
    for call in (ours.integer, ours.flag, ours.texts, ours.integers):
        with pytest.raises(BadModelFile, match=r"general\.name"):
            call("general.name")
    with pytest.raises(BadModelFile, match=r"llama\.context_length"):
        ours.text("llama.context_length")
    with pytest.raises(BadModelFile, match="nothing"):
        ours.raw("nothing")


def u32(key: str, value: int) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<II", 4, value)


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert data.count(old) == 1, old
        return data.replace(old, new)

    return change


def at(offset: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + new + data[offset + len(new) :]


HUGE = struct.pack("<Q", 1 << 62)
NORM = b"output_norm.weight"
HEADS = "llama.attention.head_count"
BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "empty"),
    "text": (lambda _: b"hello", "isn't a GGUF"),
    "magic only": (lambda _: b"GGUF", "ends inside the version"),
    "zeros": (lambda _: bytes(4096), "isn't a GGUF"),
    "version 1": (at(4, struct.pack("<I", 1)), "version 0x1"),
    "big endian": (at(4, struct.pack(">I", 3)), "version 0x3000000"),
    "tensor count": (at(8, HUGE), "too many for tensors"),
    "more tensors": (at(8, struct.pack("<Q", 60_000)), "."),
    "field count": (at(16, HUGE), "too many for metadata"),
    "more fields": (at(16, struct.pack("<Q", 4000)), "."),
    "key length": (at(24, HUGE), "a metadata key has"),
    "half": (lambda data: data[: len(data) // 2], "ends inside tensor"),
    "a byte short": (lambda data: data[:-1], "ends inside tensor"),
    "in the header": (lambda data: data[:300], "ends inside"),
    "other architecture": (replaced(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0mamba"), "'mamba'"),
    "no architecture": (
        replaced(b"general.architecture", b"general.architectura"),
        "names no arch",
    ),
    "no UTF-8": (replaced(b"tiny 0", b"tiny \xff"), "UTF-8"),
    "no heads": (replaced(u32(HEADS, 4), u32(HEADS, 0)), "head_count"),
    "too many heads": (replaced(u32(HEADS, 4), u32(HEADS, 1 << 30)), "head_count"),
    "heads that don't fit": (replaced(u32(HEADS, 4), u32(HEADS, 3)), "KV heads"),
    "more layers": (
        replaced(u32("llama.block_count", 4), u32("llama.block_count", 5)),
        r"no tensor 'blk\.4",
    ),
    "fewer layers": (
        replaced(u32("llama.block_count", 4), u32("llama.block_count", 3)),
        r"'blk\.3.* isn't part",
    ),
    "other width": (
        replaced(u32("llama.embedding_length", 64), u32("llama.embedding_length", 128)),
        "has shape|isn't supported",
    ),
    "list length": (
        replaced(struct.pack("<IIQ", 9, 8, 300), struct.pack("<II", 9, 8) + HUGE),
        "elements of 'tokenizer.ggml.tokens' are too many",
    ),
    "longer list": (
        replaced(struct.pack("<IIQ", 9, 8, 300), struct.pack("<IIQ", 9, 8, 4_000_000)),
        "ends inside 'tokenizer.ggml.tokens'",
    ),
    "list of lists": (
        replaced(struct.pack("<IIQ", 9, 8, 300), struct.pack("<IIQ", 9, 9, 300)),
        "unknown type 9",
    ),
    "dimensions": (replaced(NORM + b"\1", NORM + b"\7"), "7 dimensions"),
    "tensor type": (
        replaced(NORM + struct.pack("<IQI", 1, 64, 0), NORM + struct.pack("<IQI", 1, 64, 99)),
        "unknown type 99",
    ),
    "tensor too large": (
        replaced(NORM + struct.pack("<IQI", 1, 64, 0), NORM + struct.pack("<IQI", 1, 1 << 60, 0)),
        "ends inside tensor 'output_norm",
    ),
    "half a block": (
        replaced(NORM + struct.pack("<IQI", 1, 64, 0), NORM + struct.pack("<IQI", 1, 65, 2)),
        "can't be of type Q4_0",
    ),
    "missing key": (replaced(b"llama.context_length", b"llama.context_lengtx"), "is missing"),
    "missing tensor": (replaced(b"blk.2.ffn_up.weight", b"blk.2.ffn_xx.weight"), "no tensor"),
    "same tensor": (replaced(b"blk.2.attn_q.weight", b"blk.2.attn_k.weight"), "twice"),
    "same key": (replaced(b"llama.rope.freq_base", b"llama.context_length"), "."),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_one_error_that_names_the_file(
    tiny_gguf: Path, tmp_path: Path, case: str
) -> None:
    change, match = BROKEN[case]
    path = tmp_path / "broken.gguf"
    path.write_bytes(change(tiny_gguf.read_bytes()))
    with pytest.raises(BadModelFile, match=match) as raised:
        GgufFile(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_vocabulary_other_than_the_embedding_is_refused(tiny_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    key = "llama.vocab_size"
    path.write_bytes(replaced(u32(key, 300), u32(key, 299))(tiny_gguf.read_bytes()))
    with pytest.raises(BadModelFile, match="299, 300"):
        GgufFile(path)
