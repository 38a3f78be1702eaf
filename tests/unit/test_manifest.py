"""Manifests: one id for one content, and nothing but a manifest parses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthring.protocol.errors import BadModelFile
from hearthring.shards.families import layer_tensors
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.manifest import FORMAT, Manifest, build, canonical
from hearthring.shards.store import ModelEntry
from tests.tiny import write_tiny_gguf


@pytest.fixture(scope="module")
def manifest(tiny_gguf: Path) -> Manifest:
    return build(GgufFile(tiny_gguf))


def test_what_it_says(manifest: Manifest, tmp_path: Path) -> None:
    assert (manifest.name, manifest.shape.layers, manifest.format) == ("tiny 0", 4, FORMAT)
    assert len(set(manifest.layers)) == 4
    assert manifest.types == (("F32",) * 9,) * 4
    quantised = build(GgufFile(write_tiny_gguf(tmp_path / "q.gguf", quant="Q4_1")))
    assert set(quantised.types) == {
        tuple(
            "F32" if "norm" in name else "Q4_1"
            for name in sorted(layer_tensors(quantised.shape, 0))
        )
    }
    assert (quantised.embedding_type, quantised.head_types) == ("Q8_0", ("F32",))
    assert quantised.tokenizer == manifest.tokenizer
    assert quantised.head == manifest.head
    assert quantised.layers[0] != manifest.layers[0]


def test_the_id_is_of_the_content_not_the_path(
    manifest: Manifest, tiny_gguf: Path, tmp_path: Path
) -> None:
    copy = shutil.copy(tiny_gguf, tmp_path / "other name.gguf")
    assert build(GgufFile(copy)).model_id == manifest.model_id
    other = write_tiny_gguf(tmp_path / "seed.gguf", seed=1)
    assert build(GgufFile(other)).model_id != manifest.model_id


@pytest.mark.parametrize(
    ("tensor", "part"),
    [
        ("blk.2.attn_v.weight", "layers"),
        ("token_embd.weight", "embedding"),
        ("output_norm.weight", "head"),
    ],
)
def test_one_bit_of_a_weight_changes_its_hash_only(
    manifest: Manifest, tiny_gguf: Path, tmp_path: Path, tensor: str, part: str
) -> None:
    path = tmp_path / "changed.gguf"
    data = bytearray(tiny_gguf.read_bytes())
    data[GgufFile(tiny_gguf)._header.tensors[tensor].offset] ^= 1
    path.write_bytes(data)
    changed = json.loads(build(GgufFile(path)).to_json())
    before = json.loads(manifest.to_json())
    assert [key for key in before if before[key] != changed[key]] == [part]
    if part == "layers":
        assert [a != b for a, b in zip(before[part], changed[part], strict=True)] == [
            *(False, False, True, False),
        ]


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        (b"smollm", b"qwen99", "tokenizer"),
        (b"\xc4\xa0 t", b"\xc4\xa0 u", "tokenizer"),
        (b"assistant", b"Assistant", "chat_template"),
        (b"tiny 0", b"tiny!0", "name"),
    ],
)
def test_each_part_of_the_metadata_has_its_hash(
    manifest: Manifest, tiny_gguf: Path, tmp_path: Path, old: bytes, new: bytes, part: str
) -> None:
    path = tmp_path / "changed.gguf"
    path.write_bytes(tiny_gguf.read_bytes().replace(old, new, 1))
    changed = json.loads(build(GgufFile(path)).to_json())
    before = json.loads(manifest.to_json())
    assert [key for key in before if before[key] != changed[key]] == [part]


def test_progress_ends_whole(tiny_gguf: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    build(GgufFile(tiny_gguf), lambda *step: seen.append(step))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1] == seen[-1][2] > 600_000


def test_json_is_canonical_and_comes_back(manifest: Manifest) -> None:
    text = manifest.to_json()
    assert text.isascii()
    assert text == canonical(json.loads(text))
    assert Manifest.from_json(text) == manifest
    assert Manifest.from_json(text.encode()).model_id == manifest.model_id


WRONG: dict[str, Any] = {
    "name": 3,
    "layers": ["0" * 64] * 3,
    "types": [["F32"] * 9] * 3 + [["F32"] * 8],
    "embedding": "0" * 63 + "G",
    "embedding_type": None,
    "head": "",
    "head_types": ["Q9_9"],
    "tokenizer": "A" * 64,
    "chat_template": None,
    "file_type": True,
    "format": 1,
    "extra": 1,
    "shape": {},
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_field_is_refused(manifest: Manifest, key: str) -> None:
    found = json.loads(manifest.to_json())
    found[key] = WRONG[key]
    with pytest.raises(BadModelFile, match="manifest"):
        Manifest.from_json(canonical(found))


def test_a_peer_s_manifest_writes_nothing_but_text_on_a_terminal(manifest: Manifest) -> None:
    found = json.loads(manifest.to_json()) | {"name": "\x1b[2Jtiny"}
    with pytest.raises(BadModelFile, match="not to be printed"):
        Manifest.from_json(canonical(found))


@pytest.mark.parametrize(
    ("key", "value"),
    [("layers", 0), ("layers", True), ("width", 64.0), ("rope_base", 1), ("tied_head", 1)],
)
def test_a_wrong_shape_is_refused(manifest: Manifest, key: str, value: object) -> None:
    found = json.loads(manifest.to_json())
    found["shape"][key] = value
    with pytest.raises(BadModelFile, match="shape"):
        Manifest.from_json(canonical(found))


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", "[" * 100_000, '{"a":' * 9999, "1" * 5000, "\ud800", b"\xff"]
)
def test_what_isnt_a_manifest_is_refused(text: str | bytes) -> None:
    with pytest.raises(BadModelFile, match="manifest"):
        Manifest.from_json(text)


def test_other_spacing_or_order_is_refused(manifest: Manifest) -> None:
    text = manifest.to_json()
    for other in (text + " ", json.dumps(json.loads(text)), text.replace("{", '{"format":1,', 1)):
        with pytest.raises(BadModelFile, match="canonical"):
            Manifest.from_json(other)


@given(st.data())
def test_any_changed_byte_is_refused_or_another_id(manifest: Manifest, data: st.DataObject) -> None:
    text = bytearray(manifest.to_json().encode())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != text[at]))
    try:
        found = Manifest.from_json(bytes(text))
    except BadModelFile:
        return
    assert found.model_id != manifest.model_id


@pytest.mark.model
def test_smollm2_has_the_id_it_always_had(smollm2: ModelEntry) -> None:
    # An id is in proofs and announced records, so a changed manifest is a changed format.
    assert smollm2.model_id == build(smollm2.open()).model_id
    assert smollm2.model_id.startswith("17087e81260cdc22e2baf0de81133c37")
    assert (smollm2.manifest.shape.layers, set(smollm2.manifest.types[0])) == (30, {"F32", "Q4_1"})
