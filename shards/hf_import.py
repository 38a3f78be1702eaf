"""A Hugging Face folder, or a model file in other types, as one GGUF file.

Weights are read, changed and written a few megabytes at a time, so the memory needed is that of
one such piece whatever the model's size; everything that can be checked is checked before the
first of them is read.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from hearthring.protocol.errors import BadModelFile
from hearthring.protocol.tensors import F32
from hearthring.shards.families import ROPE_TENSORS, all_tensors
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.gguf_header import Value
from hearthring.shards.gguf_metadata import Metadata
from hearthring.shards.gguf_output import Output, write_gguf
from hearthring.shards.gguf_shape import read_shape
from hearthring.shards.hf_config import convert_config
from hearthring.shards.hf_folder import CONFIG, HfFolder
from hearthring.shards.hf_tensors import Part, parts
from hearthring.shards.hf_tokenizer import convert_tokenizer
from hearthring.shards.manifest import Progress
from hearthring.shards.quantise import file_type, pack, tensor_type
from hearthring.shards.shape import Shape

Kind = GGMLQuantizationType

_PIECE: Final = 4 << 20
"""Values read at a time: 16 MiB as float32."""
_LABEL: Final = "converting"


def convert_folder(
    folder: Path, target: Path, quantise: str | None, name: str, progress: Progress
) -> Path:
    """Write the model of a Hugging Face folder into the folder ``target``; the path it has there.

    ``quantise`` is one of ``TYPES``; ``None`` keeps the types that the weights have. The caller
    renames or removes the file. Raises ``BadModelFile`` naming the file that isn't as it should
    be, ``ModelNotHere`` for a full disk, ``EngineUnavailable`` without ggml's quantisers; nothing
    is left behind then.
    """
    opened = HfFolder(folder)
    try:
        converted = convert_config(opened.config)
    except BadModelFile as error:
        error.field = error.field or str(folder / CONFIG)
        raise
    rows = _embedding_rows(opened)
    metadata = converted.metadata | convert_tokenizer(folder, opened.config, rows)
    shape = _shape(metadata, rows, converted.tied_head, converted.factors, str(folder / CONFIG))
    stored = {name: tensor.shape for name, tensor in opened.tensors.items()}
    try:
        made = parts(shape, stored)
    except BadModelFile as error:
        error.field = error.field or str(folder)
        raise
    outputs = [_factors(key, value) for key, value in converted.factors.items()]
    for part in made:
        kept = opened.tensors[part.sources[0]].dtype
        outputs.append(_output(opened, part, _type(quantise or kept, part, shape)))
    wanted = quantise or _dominant(outputs)
    metadata = _general(name, wanted) | metadata
    return write_gguf(target, metadata, outputs, _progress(progress))


def requantise(
    source: GgufFile, target: Path, quantise: str, name: str | None, progress: Progress
) -> Path:
    """Write the model of a GGUF file in other types. As ``convert_folder``."""
    shape = source.shape
    here = set(source.tensor_names())
    outputs = []
    for key in [*dict(all_tensors(shape)), *(name for name in ROPE_TENSORS if name in here)]:
        _, size, _ = source.raw(key)
        kind = tensor_type(quantise, key, size, shape.layers, shape.tied_head)
        outputs.append(Output(key, size, kind, _Repack(source, key, kind)))
    metadata = source.fields("") | {"general.file_type": file_type(quantise)}
    if name:
        metadata["general.name"] = name
    return write_gguf(target, metadata, outputs, _progress(progress))


class _Source(Protocol):
    def rows(self, name: str, start: int, stop: int) -> F32:
        """Rows of a tensor."""


class _Repack:
    """The chunks of one tensor of a GGUF file."""

    def __init__(self, source: GgufFile, name: str, kind: GGMLQuantizationType) -> None:
        self._source, self._name, self._kind = source, name, kind

    def __call__(self) -> Iterator[NDArray[np.uint8]]:
        kept, shape, data = self._source.raw(self._name)
        rows = data.reshape(int(np.prod(shape[:-1], dtype=np.int64)), -1)
        step = max(1, _PIECE // shape[-1])
        for at in range(0, len(rows), step):
            piece = rows[at : at + step]
            if kept == self._kind:
                yield np.ascontiguousarray(piece).reshape(-1)
                continue
            with np.errstate(all="ignore"):
                wide = dequantize(piece, Kind(kept)).astype(np.float32, copy=False)
            yield pack(self._kind, wide, self._name)


def _output(folder: HfFolder, part: Part, kind: GGMLQuantizationType) -> Output:
    def chunks() -> Iterator[NDArray[np.uint8]]:
        for source in part.sources:
            for rows in _pieces(folder, source, folder.tensors[source].shape, part.halves):
                yield pack(kind, part.converted(rows), source)

    return Output(part.name, part.shape, kind, chunks)


def _pieces(source: _Source, name: str, shape: tuple[int, ...], block: int) -> Iterator[F32]:
    """A tensor in pieces of whole blocks of rows."""
    values = int(np.prod(shape[1:], dtype=np.int64))
    step = max(1, _PIECE // values)
    if block:
        step = max(block, step // block * block)
    for at in range(0, shape[0], step):
        yield source.rows(name, at, min(at + step, shape[0]))


def _factors(name: str, values: F32) -> Output:
    return Output(name, values.shape, Kind.F32, lambda: iter([pack(Kind.F32, values, name)]))


def _type(wanted: str, part: Part, shape: Shape) -> GGMLQuantizationType:
    return tensor_type(wanted, part.name, part.shape, shape.layers, shape.tied_head)


def _dominant(outputs: list[Output]) -> str:
    """The type that most bytes have."""
    sizes: dict[str, int] = {}
    for output in outputs:
        sizes[output.kind.name] = sizes.get(output.kind.name, 0) + output.size
    return max(sizes, key=lambda name: sizes[name])


def _general(name: str, wanted: str) -> dict[str, Value]:
    return {
        "general.type": "model",
        "general.name": name,
        "general.file_type": file_type(wanted),
        "general.quantization_version": 2,
    }


def _embedding_rows(folder: HfFolder) -> int:
    for name, stored in folder.tensors.items():
        if name.endswith("embed_tokens.weight"):
            return stored.shape[0]
    raise BadModelFile("there is no embedding among the weights", field=str(folder.path))


def _shape(
    metadata: dict[str, Value], rows: int, tied: bool, factors: dict[str, F32], field: str
) -> Shape:
    try:
        return read_shape(Metadata(metadata, field), rows, tied, factors.get)
    except BadModelFile as error:
        if error.field != field:
            error.message, error.field = f"{error.field or 'config'}: {error.message}", field
        raise


def _progress(progress: Progress) -> Any:
    return lambda done, total: progress(_LABEL, done, total)
