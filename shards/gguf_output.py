"""Writing a model file: the header by the ``gguf`` package, then weights as they come.

Whoever reads the target finds the old file or the whole new one; a process that is killed leaves a
``.new-*`` file, which ``clear`` removes.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Final

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from numpy.typing import NDArray

from hearthring.protocol.errors import BadModelFile, ModelNotHere
from hearthring.shards.gguf_header import Value
from hearthring.shards.quantise import packed_bytes

ALIGNMENT: Final = 32
_MOST: Final = float(np.finfo(np.float32).max)
_PREFIX: Final = ".new-"
_TYPES: Final = {
    **{"u1": GGUFValueType.UINT8, "i1": GGUFValueType.INT8, "b1": GGUFValueType.BOOL},
    **{"u2": GGUFValueType.UINT16, "i2": GGUFValueType.INT16},
    **{"u4": GGUFValueType.UINT32, "i4": GGUFValueType.INT32, "f4": GGUFValueType.FLOAT32},
    **{"u8": GGUFValueType.UINT64, "i8": GGUFValueType.INT64, "f8": GGUFValueType.FLOAT64},
}


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor to write. ``chunks`` gives its packed bytes, in order and of the right length."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    chunks: Callable[[], Iterator[NDArray[np.uint8]]]

    @property
    def size(self) -> int:
        """Its packed bytes."""
        return packed_bytes(self.kind, self.shape)


def write_gguf(
    folder: Path,
    metadata: dict[str, Value],
    tensors: Iterable[Output],
    progress: Callable[[int, int], None],
) -> Path:
    """Write a file beside its later place and return its path; the caller renames or removes it.

    ``metadata`` names the architecture. Raises ``ModelNotHere`` where the disk is full or the
    folder can't be written, and what ``chunks`` raise; nothing is then left behind.
    """
    tensors = list(tensors)
    total = sum(tensor.size for tensor in tensors)
    path = None
    try:
        free = shutil.disk_usage(folder).free
        if total > free:
            raise _no_room(folder, total, free)
        handle, name = tempfile.mkstemp(suffix=".gguf", prefix=_PREFIX, dir=folder)
        os.close(handle)
        path = Path(name)
        _write(path, metadata, tensors, total, progress)
    except BaseException as error:
        if path is not None:
            path.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(folder, total, 0) from None
        raise ModelNotHere(
            f"the model can't be written: {error.strerror or error}", field=str(folder)
        ) from None
    return path


def clear(folder: Path) -> None:
    """Remove what killed processes left; no other may be writing there."""
    for left in folder.glob(f"{_PREFIX}*.gguf"):
        left.unlink(missing_ok=True)


def _no_room(folder: Path, total: int, free: int) -> ModelNotHere:
    return ModelNotHere(
        f"the model needs {total >> 20} MiB, and {free >> 20} MiB are free",
        field=str(folder),
        mend="make room, or set HEARTHRING_MODELS to a folder on another disk",
    )


def _write(
    path: Path,
    metadata: dict[str, Value],
    tensors: list[Output],
    total: int,
    progress: Callable[[int, int], None],
) -> None:
    writer = GGUFWriter(path, str(metadata["general.architecture"]))
    for key, value in metadata.items():
        if key not in ("general.architecture", "general.alignment"):
            _add(writer, key, value)
    for tensor in tensors:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.size, tensor.kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    done = 0
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        for tensor in tensors:
            file.write(bytes(-file.tell() % ALIGNMENT))
            begun = file.tell()
            for chunk in tensor.chunks():
                file.write(chunk.data)
                done += chunk.size
                progress(done, total)
            if file.tell() - begun != tensor.size:
                raise BadModelFile(f"tensor {tensor.name!r} has another size than promised")
        file.write(bytes(-file.tell() % ALIGNMENT))
        file.flush()
        os.fsync(file.fileno())


def _add(writer: GGUFWriter, key: str, value: Value) -> None:
    if isinstance(value, str):
        writer.add_key_value(key, value, GGUFValueType.STRING)
    elif isinstance(value, bool):
        writer.add_key_value(key, value, GGUFValueType.BOOL)
    elif isinstance(value, int):
        kind = GGUFValueType.UINT32 if 0 <= value < 1 << 32 else GGUFValueType.INT64
        writer.add_key_value(key, value, kind if value < 1 << 63 else GGUFValueType.UINT64)
    elif isinstance(value, float):
        fits = not isfinite(value) or abs(value) <= _MOST
        writer.add_key_value(key, value, GGUFValueType.FLOAT32 if fits else GGUFValueType.FLOAT64)
    elif isinstance(value, tuple) and value:
        writer.add_key_value(key, list(value), GGUFValueType.ARRAY, GGUFValueType.STRING)
    elif isinstance(value, np.ndarray) and value.size:
        kind = _TYPES[value.dtype.str[1:]]
        writer.add_key_value(key, value.tolist(), GGUFValueType.ARRAY, kind)
