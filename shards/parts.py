"""The parts of a model: what may be fetched, kept and served on its own.

A part is a string of bytes whose SHA-256 the manifest holds. For a layer, the embedding and the
head it is, tensor by tensor in the order of names, a line (name, type, shape and size) and the
weights; for tokenizer and chat template it is canonical JSON. Manifest and shape tell everything
but the weights, so a part's size is known before anybody sends it.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from hearthring.protocol.errors import BadModelFile, ModelNotHere
from hearthring.protocol.limits import LIMITS
from hearthring.shards.families import EMBEDDING as EMBEDDING_TENSOR
from hearthring.shards.families import head_tensors, layer_tensors
from hearthring.shards.gguf_header import KINDS, Tensor, Value, byte_size
from hearthring.shards.manifest import Manifest, tensor_line

TOKENIZER: Final = "tokenizer"
TEMPLATE: Final = "template"
EMBEDDING: Final = "embedding"
HEAD: Final = "head"
TEXTS: Final = (TOKENIZER, TEMPLATE)
ENDS: Final = (TOKENIZER, TEMPLATE, EMBEDDING, HEAD)
"""What a client needs, and no stage."""

_LAYER = re.compile(r"layer(0|[1-9][0-9]{0,3})")


def layer_part(layer: int) -> str:
    """The name of a layer's part."""
    return f"layer{layer}"


def window_parts(start: int, end: int) -> tuple[str, ...]:
    """The parts of a window."""
    return tuple(layer_part(layer) for layer in range(start, end))


def all_parts(manifest: Manifest) -> tuple[str, ...]:
    """Every part of a model: the ends, then the layers."""
    return ENDS + window_parts(0, manifest.shape.layers)


def replay_parts(manifest: Manifest) -> tuple[str, ...]:
    """What it takes to run a model from token ids to logits."""
    return (EMBEDDING, HEAD, *window_parts(0, manifest.shape.layers))


def layers_in(parts: Iterable[str]) -> tuple[int, ...]:
    """The layers among some parts, sorted."""
    found = (_LAYER.fullmatch(part) for part in parts)
    return tuple(sorted(int(match[1]) for match in found if match))


def describe_parts(parts: Iterable[str]) -> str:
    """Parts as a person would say them: ``layers 0-7 and 22-29, embedding``."""
    parts = tuple(parts)
    runs: list[list[int]] = []
    for layer in layers_in(parts):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    said = [f"{low}-{high}" if low < high else str(low) for low, high in runs]
    layers = []
    if said:
        word = "layer" if runs == [[runs[0][0]] * 2] else "layers"
        layers = [f"{word} {' and '.join(said)}"]
    return ", ".join([*layers, *(part for part in parts if part in ENDS)])


def sha256_of(manifest: Manifest, part: str) -> str:
    """What the manifest says a part hashes to. Raises ``ModelNotHere`` for an unknown part."""
    if part in ENDS:
        named = {TEMPLATE: manifest.chat_template, TOKENIZER: manifest.tokenizer}
        return named.get(part) or (manifest.head if part == HEAD else manifest.embedding)
    return manifest.layers[_layer(manifest, part)]


def tensors_of(manifest: Manifest, part: str) -> tuple[Tensor, ...]:
    """The tensors of a part by name, none for texts; their offsets count in the part's bytes.

    Raises ``BadModelFile`` for types that don't fit the shape, and as ``sha256_of`` does.
    """
    shape = manifest.shape
    if part in TEXTS:
        return ()
    if part == EMBEDDING:
        dims: dict[str, tuple[int, ...]] = {EMBEDDING_TENSOR: (shape.vocabulary, shape.width)}
        kinds: Sequence[str] = (manifest.embedding_type,)
    elif part == HEAD:
        dims, kinds = head_tensors(shape), manifest.head_types
    else:
        layer = _layer(manifest, part)
        dims, kinds = layer_tensors(shape, layer), manifest.types[layer]
    found, at = [], 0
    for name, kind_name in zip(sorted(dims), kinds, strict=True):
        kind = KINDS[kind_name]
        size = byte_size(kind, dims[name])
        at += len(tensor_line(name, kind, dims[name], size))
        found.append(Tensor(name, kind, dims[name], at, size))
        at += size
    return tuple(found)


def size_of(manifest: Manifest, part: str) -> int | None:
    """Bytes of a part; ``None`` for texts, whose size only who has them knows."""
    tensors = tensors_of(manifest, part)
    return tensors[-1].offset + tensors[-1].size if tensors else None


def _layer(manifest: Manifest, part: str) -> int:
    match = _LAYER.fullmatch(part)
    if match is None or int(match[1]) >= manifest.shape.layers:
        raise ModelNotHere(f"the model has no part {part!r:.40}", field="part")
    return int(match[1])


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of a part's bytes that lies in a file."""

    offset: int
    size: int


class PartBytes:
    """A part's bytes, read and written in place: lines from the manifest, weights from a file."""

    def __init__(self, pieces: Iterable[bytes | Extent], file: int = -1) -> None:
        self._file = file
        self._pieces: list[tuple[int, bytes | Extent]] = []
        self.size = 0
        for piece in pieces:
            self._pieces.append((self.size, piece))
            self.size += piece.size if isinstance(piece, Extent) else len(piece)

    @classmethod
    def of_tensors(cls, places: Iterable[Tensor], file: int) -> "PartBytes":
        """A part whose tensors, sorted by name, lie at these places in a file."""
        pieces: list[bytes | Extent] = []
        for t in places:
            pieces += tensor_line(t.name, t.kind, t.shape, t.size), Extent(t.offset, t.size)
        return cls(pieces, file)

    def read(self, at: int, count: int) -> bytes:
        """``count`` bytes from ``at`` on.

        Raises ``BadModelFile`` where the file ends before, or the disk doesn't give them.
        """
        found = []
        for piece, low, high, _ in self._within(at, count):
            if isinstance(piece, bytes):
                found.append(piece[low:high])
                continue
            try:
                data = os.pread(self._file, high - low, piece.offset + low)
            except OSError as error:
                why = (error.strerror or str(error)).lower()
                raise BadModelFile(f"the file can't be read: {why}") from None
            if len(data) != high - low:
                raise BadModelFile("the file was cut short")
            found.append(data)
        return b"".join(found)

    def write(self, at: int, data: bytes) -> None:
        """Put bytes to their places. Lines are known and stay; a hash tells whether they differ.

        Raises ``OSError``.
        """
        for piece, low, high, begin in self._within(at, len(data)):
            if isinstance(piece, Extent):
                left = memoryview(data)[begin : begin + high - low]
                while left:
                    done = os.pwrite(self._file, left, piece.offset + low)
                    low, left = low + done, left[done:]

    def whole(self) -> bytes:
        """All bytes at once: for texts."""
        return self.read(0, self.size)

    def chunks(self, count: int) -> Iterator[bytes]:
        """All bytes in order, ``count`` at a time."""
        for at in range(0, self.size, count):
            yield self.read(at, min(count, self.size - at))

    def _within(self, at: int, count: int) -> Iterator[tuple[bytes | Extent, int, int, int]]:
        """The pieces that share bytes with ``[at, at + count)``.

        Which bytes of each, from low to high, and where in the range the first one stands.
        """
        for start, piece in self._pieces:
            size = piece.size if isinstance(piece, Extent) else len(piece)
            low, high = max(0, at - start), min(size, at + count - start)
            if low < high:
                yield piece, low, high, start + low - at


def piece_bounds(size: int, index: int) -> tuple[int, int]:
    """``(offset, length)`` of a piece. Raises ``ModelNotHere`` beyond the part's end."""
    at = index * LIMITS.piece_bytes
    if at >= size:
        raise ModelNotHere(f"there is no piece {index} in {size} bytes", field="piece")
    return at, min(LIMITS.piece_bytes, size - at)


def read_fields(data: bytes) -> dict[str, Value]:
    """Metadata out of a tokenizer part, as a model file would hold it. Raises ``BadModelFile``."""
    try:
        found = json.loads(data)
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        return {key: _value(value) for key, value in found.items()}
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadModelFile(f"the tokenizer doesn't parse: {error}", field=TOKENIZER) from None


def read_text(data: bytes) -> str | None:
    """The text, or none, in a template part. Raises ``BadModelFile``."""
    try:
        found = json.loads(data)
        if found is None or isinstance(found, str):
            return found
    except (ValueError, RecursionError):
        pass
    raise BadModelFile("the chat template doesn't parse", field=TEMPLATE)


def _value(found: object) -> Value:
    if isinstance(found, str | int | float):
        return found
    if not isinstance(found, list):
        raise ValueError("it holds a value of another kind")
    if all(isinstance(item, str) for item in found):
        return tuple(found)
    kinds = {type(item) for item in found}
    if not kinds <= {int, float}:
        raise ValueError("it holds a list of mixed kinds")
    return np.array(found, np.float32 if float in kinds else np.int64)
