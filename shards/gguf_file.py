"""A GGUF model file of the Llama family, mapped into memory and checked before anything uses it."""

import mmap
import os
import stat
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from hearthring.protocol.errors import BadModelFile, HearthringError, UnknownModel
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.tensors import F32
from hearthring.shards.gguf_header import Header, Tensor, Value, read_header, type_name
from hearthring.shards.shape import Shape

MAX_LAYERS = 1024
MAX_COUNT = 1 << 31
EMBEDDING = "token_embd.weight"


class GgufFile:
    """An opened model file.

    Once it is constructed, every tensor that ``shape`` promises is there, in the promised shape
    and inside the file. Nothing is copied: weights are read from the mapping, which lives as long
    as any view of it. Raises ``UnknownModel`` when there is no such path, ``BadModelFile`` for
    everything that isn't a whole GGUF file of a known architecture.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self._map, status = _map(self.path)
            # Size and time tell later whether this is still the file that was opened.
            self.stamp = (status.st_size, status.st_mtime_ns)
            self._header: Header = read_header(self._map)
            self.shape = self._shape()
            self._check_tensors()
        except HearthringError as error:
            error.field = error.field or str(self.path)
            raise
        self._bytes = np.frombuffer(self._map, np.uint8)

    def tensor_names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        return tuple(sorted(self._header.tensors))

    def layer_names(self, layer: int) -> tuple[str, ...]:
        """Names of the tensors of one layer, sorted."""
        return tuple(sorted(layer_tensors(self.shape, layer)))

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

    def fields(self, prefix: str) -> dict[str, Value]:
        """All metadata whose key begins with ``prefix``."""
        return {key: value for key, value in self._header.fields.items() if key.startswith(prefix)}

    def text(self, key: str) -> str | None:
        """A string of the metadata; ``None`` without it. Another type is a ``BadModelFile``."""
        value = self._header.fields.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong(key, "a string")

    def flag(self, key: str) -> bool | None:
        """A yes or no of the metadata; ``None`` without it. Another type is a ``BadModelFile``."""
        value = self._header.fields.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self._wrong(key, "a yes or no")

    def integer(self, key: str, low: int = 0, high: int = MAX_COUNT) -> int | None:
        """An integer in ``[low, high]``; ``None`` without it. All else is a ``BadModelFile``."""
        value = self._header.fields.get(key)
        if value is None or (type(value) is int and low <= value <= high):
            return value
        raise self._wrong(key, f"an integer from {low} to {high}")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty without it. Another type is a ``BadModelFile``."""
        value = self._header.fields.get(key, ())
        if isinstance(value, tuple):
            return value
        raise self._wrong(key, "a list of strings")

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of integers; empty without it. Another type is a ``BadModelFile``."""
        value = self._header.fields.get(key)
        if value is None:
            return ()
        if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
            return tuple(value.tolist())
        raise self._wrong(key, "a list of integers")

    def _tensor(self, name: str) -> Tensor:
        tensor = self._header.tensors.get(name)
        if tensor is None:
            raise BadModelFile(f"there is no tensor {name!r}", field=str(self.path))
        return tensor

    def _wrong(self, key: str, wanted: str) -> BadModelFile:
        return BadModelFile(f"metadata {key} isn't {wanted}", field=str(self.path))

    def _count(self, key: str, default: int | None = None, high: int = MAX_COUNT) -> int:
        found = self.integer(key, 1, high)
        if found is None and default is None:
            raise BadModelFile(f"metadata {key} is missing")
        return found if found is not None else default or 0

    def _real(self, key: str, default: float | None = None) -> float:
        value = self._header.fields.get(key, default)
        if value is None:
            raise BadModelFile(f"metadata {key} is missing")
        if not isinstance(value, float) or not isfinite(value) or value <= 0:
            raise self._wrong(key, "a positive number")
        return value

    def _shape(self) -> Shape:
        architecture = self.text("general.architecture")
        if architecture is None:
            raise BadModelFile("the file names no architecture")
        if architecture != "llama":
            raise BadModelFile(f"architecture {architecture!r:.80} isn't supported, only 'llama'")
        width = self._count("llama.embedding_length", high=LIMITS.width)
        heads = self._count("llama.attention.head_count", high=width)
        head_width = self._count("llama.attention.key_length", width // heads, width)
        shape = Shape(
            architecture=architecture,
            layers=self._count("llama.block_count", high=MAX_LAYERS),
            width=width,
            heads=heads,
            kv_heads=self._count("llama.attention.head_count_kv", heads, heads),
            head_width=head_width,
            ffn=self._count("llama.feed_forward_length"),
            vocabulary=self._tensor("token_embd.weight").shape[0],
            context=self._count("llama.context_length"),
            norm_epsilon=self._real("llama.attention.layer_norm_rms_epsilon"),
            rope_base=self._real("llama.rope.freq_base", 10_000.0),
            tied_head="output.weight" not in self._header.tensors,
        )
        if shape.heads % shape.kv_heads or shape.head_width % 2:
            raise BadModelFile(
                f"{heads} heads of {head_width} channels don't fit {shape.kv_heads} KV heads"
            )
        for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
            if self._count(key, head_width) != head_width:
                raise BadModelFile(f"{key} other than the head's width isn't supported")
        if self.text("llama.rope.scaling.type") not in (None, "none"):
            raise BadModelFile("scaled rotary positions aren't supported")
        for key, count in (
            ("llama.vocab_size", self._count("llama.vocab_size", shape.vocabulary)),
            ("tokenizer.ggml.tokens", len(self.texts("tokenizer.ggml.tokens"))),
        ):
            if key in self._header.fields and count != shape.vocabulary:
                raise BadModelFile(f"{key} and the embedding disagree: {count}, {shape.vocabulary}")
        return shape

    def _check_tensors(self) -> None:
        needed = dict(all_tensors(self.shape))
        for name, shape in needed.items():
            found = self._tensor(name).shape
            if found != shape:
                raise BadModelFile(f"tensor {name!r} has shape {found} instead of {shape}")
        # A tensor that is left out of the computation (a bias, an expert) would make it wrong.
        for name in self._header.tensors:
            if name not in needed:
                raise BadModelFile(f"tensor {name!r:.80} isn't part of a Llama this release runs")


def layer_tensors(shape: Shape, layer: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a layer's tensors, by name."""
    queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    parts: dict[str, tuple[int, ...]] = {
        "attn_norm": (shape.width,),
        "attn_q": (queries, shape.width),
        "attn_k": (keys, shape.width),
        "attn_v": (keys, shape.width),
        "attn_output": (shape.width, queries),
        "ffn_norm": (shape.width,),
        "ffn_gate": (shape.ffn, shape.width),
        "ffn_up": (shape.ffn, shape.width),
        "ffn_down": (shape.width, shape.ffn),
    }
    return {f"blk.{layer}.{part}.weight": dims for part, dims in parts.items()}


def head_tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors behind the last layer, by name."""
    tensors: dict[str, tuple[int, ...]] = {"output_norm.weight": (shape.width,)}
    if not shape.tied_head:
        tensors["output.weight"] = (shape.vocabulary, shape.width)
    return tensors


def all_tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a model."""
    yield EMBEDDING, (shape.vocabulary, shape.width)
    yield from head_tensors(shape).items()
    for layer in range(shape.layers):
        yield from layer_tensors(shape, layer).items()


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
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), status
    except FileNotFoundError:
        raise UnknownModel("there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path, or a file shrunk
        reason = getattr(error, "strerror", None) or str(error)
        raise BadModelFile(f"the file can't be read: {reason}") from None
