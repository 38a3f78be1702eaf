"""A GGUF model file of a known family, mapped into memory and checked before anything uses it."""

import contextlib
import mmap
import os
import stat
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from hearthring.protocol.errors import BadModelFile, BadOption, HearthringError, UnknownModel
from hearthring.protocol.tensors import F32
from hearthring.shards.families import EMBEDDING, HEAD, ROPE_TENSORS, all_tensors, layer_tensors
from hearthring.shards.gguf_header import Header, Tensor, read_header, type_name
from hearthring.shards.gguf_metadata import Metadata
from hearthring.shards.gguf_shape import read_shape
from hearthring.shards.shape import Shape


class GgufFile(Metadata):
    """An opened model file.

    Once it is constructed, every tensor that ``shape`` promises is there, in the promised shape
    and inside the file. Nothing is copied: weights are read from the mapping, which lives as long
    as any view of it. ``context`` is that to use, by default the model's longest. Raises
    ``BadOption`` for one that is longer, ``UnknownModel`` when there is no such path,
    ``BadModelFile`` for everything that isn't a whole GGUF file of a known architecture.
    """

    def __init__(self, path: Path | str, context: int | None = None) -> None:
        self.path = Path(path)
        try:
            self._map, status = _map(self.path)
            # Size and time tell later whether this is still the file that was opened.
            self.stamp = (status.st_size, status.st_mtime_ns)
            self._header: Header = read_header(self._map)
            super().__init__(self._header.fields, str(self.path))
            self._bytes = np.frombuffer(self._map, np.uint8)
            self.shape = self._shape(context)
            self._check_tensors()
        except BadOption:
            raise
        except HearthringError as error:
            error.field = str(self.path)
            raise

    def tensor_names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        return tuple(sorted(self._header.tensors))

    def layer_names(self, layer: int) -> tuple[str, ...]:
        """Names of the tensors of one layer, sorted."""
        return tuple(sorted(layer_tensors(self.shape, layer)))

    def tensor(self, name: str) -> Tensor:
        """Where a tensor lies in the file. Raises ``BadModelFile`` for a name that isn't there."""
        return self._tensor(name)

    def kind(self, name: str) -> int:
        """ggml's number of a tensor's type. Raises ``BadModelFile``."""
        return self._tensor(name).kind

    def type_name(self, name: str) -> str:
        """ggml's name of a tensor's type, such as ``Q4_1``."""
        return type_name(self._tensor(name).kind)

    def raw(self, name: str) -> tuple[int, tuple[int, ...], NDArray[np.uint8]]:
        """ggml type, row-major shape and the mapped bytes, read-only.

        Raises ``BadModelFile`` for a name that isn't there.
        """
        tensor = self._tensor(name)
        return tensor.kind, tensor.shape, self._bytes[tensor.offset : tensor.offset + tensor.size]

    def dequantised(self, name: str) -> F32:
        """The tensor as float32 in its row-major shape (``[out, in]``): a copy of its own.

        Raises ``BadModelFile`` for a name that isn't there, or a type that can't be widened.
        """
        kind, shape, data = self.raw(name)
        rows = data.reshape(*shape[:-1], -1)
        # Scales in a hostile file may be infinite; refusing results is the engine's part.
        with np.errstate(all="ignore"):
            try:
                wide = dequantize(rows, GGMLQuantizationType(kind))
            except NotImplementedError:
                raise BadModelFile(
                    f"tensor {name!r} is of type {type_name(kind)}, which can't be read",
                    field=str(self.path),
                ) from None
        return np.array(wide, np.float32, order="C").reshape(shape)

    def _tensor(self, name: str) -> Tensor:
        tensor = self._header.tensors.get(name)
        if tensor is None:
            raise BadModelFile(f"there is no tensor {name!r}", field=str(self.path))
        return tensor

    def _shape(self, context: int | None) -> Shape:
        """The shape, once the vocabulary is known to be of one size."""
        tensors = self._header.tensors
        vocabulary = self._tensor(EMBEDDING).shape[0]

        def factors(name: str) -> F32 | None:
            return self.dequantised(name) if name in tensors else None

        shape = read_shape(self, vocabulary, HEAD not in tensors, factors, context)
        size = f"{shape.architecture}.vocab_size"
        for key, count in (
            (size, self.count(size, vocabulary)),
            ("tokenizer.ggml.tokens", len(self.texts("tokenizer.ggml.tokens"))),
        ):
            if self.fields(key) and count != vocabulary:
                raise BadModelFile(f"{key} and the embedding disagree: {count}, {vocabulary}")
        return shape

    def _check_tensors(self) -> None:
        needed = dict(all_tensors(self.shape))
        for name, shape in needed.items():
            found = self._tensor(name).shape
            if found != shape:
                raise BadModelFile(f"tensor {name!r} has shape {found} instead of {shape}")
        # A tensor that is left out of the computation (a bias, an expert) would make it wrong.
        for name in self._header.tensors:
            if name not in needed and name not in ROPE_TENSORS:
                raise BadModelFile(
                    f"tensor {name!r:.80} isn't part of a {self.shape.architecture} model that "
                    "this release runs"
                )


def _map(path: Path) -> tuple[mmap.mmap, os.stat_result]:
    """Map a regular file; opening a pipe would wait for ever."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise BadModelFile(f"this is {kind}, not a GGUF file")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size == 0:
                raise BadModelFile("the file is empty")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            _want_large_pages(mapped)
            return mapped, status
    except FileNotFoundError:
        raise UnknownModel("there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path, or a file shrunk
        reason = getattr(error, "strerror", None) or str(error)
        raise BadModelFile(f"the file can't be read: {reason}") from None


def _want_large_pages(mapped: mmap.mmap) -> None:
    """Ask for large pages, which a file system that has them gives to what it reads from now on:
    decoding reads all weights for each row, and looking up small pages takes a tenth of the time.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is not None:
        with contextlib.suppress(OSError):  # a kernel without them
            mapped.madvise(advice)
