"""The header of a GGUF file, read within bounds.

Every length and count is checked against the bytes there are, and against a cap, before anything
is allocated or looped over, so a hostile file costs no more than a refusal. The reader that comes
with the ``gguf`` package trusts its file, and takes seconds for a vocabulary where this takes
milliseconds; what the two read from a good file is equal.
"""

import struct
from dataclasses import dataclass
from math import prod
from mmap import mmap
from typing import Final

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from hearthring.protocol.errors import BadModelFile

Number = NDArray[np.generic]
Value = str | int | float | bool | tuple[str, ...] | Number

MAX_FIELDS: Final = 1 << 12
MAX_TENSORS: Final = 1 << 16
MAX_KEY: Final = 1 << 10
MAX_ELEMENTS: Final = 1 << 22
"""Elements of all arrays together: several times the largest vocabulary with its merges."""
MAX_DIMENSIONS: Final = 4

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: Final[dict[int, np.dtype[np.generic]]] = {
    number: np.dtype(code)
    for number, code in {
        0: "u1",
        1: "i1",
        2: "<u2",
        3: "<i2",
        4: "<u4",
        5: "<i4",
        6: "<f4",
        _BOOL: "u1",
        10: "<u8",
        11: "<i8",
        12: "<f8",
    }.items()
}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies. ``shape`` is row-major: a matrix is ``(out, in)``."""

    name: str
    kind: int
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Header:
    """Metadata by key and tensors by name, in the file's order."""

    fields: dict[str, Value]
    tensors: dict[str, Tensor]


KINDS: Final = {kind.name: int(kind) for kind in GGML_QUANT_SIZES}
"""Weight types by ggml's name."""


def byte_size(kind: int, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of a known type. Raises ``BadModelFile`` where rows aren't whole blocks."""
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    if not all(shape) or shape[-1] % block:
        raise BadModelFile(f"a tensor of shape {shape} can't be of type {type_name(kind)}")
    return int(prod(shape) // block * block_bytes)


def type_name(kind: int) -> str:
    """ggml's name of a weight type, such as ``Q4_1``."""
    return str(GGMLQuantizationType(kind).name)


class _Scan:
    """A position in the file that can't leave it."""

    def __init__(self, data: mmap) -> None:
        self.data, self.size = data, len(data)
        self.at = 0
        self.elements = 0

    def need(self, count: int, what: str) -> int:
        """Where ``count`` bytes begin; moves behind them."""
        start = self.at
        if count > self.size - start:
            raise BadModelFile(f"the file ends inside {what}")
        self.at = start + count
        return start

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(self.data, self.need(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack_from(self.data, self.need(8, what))[0])

    def text(self, what: str, most: int | None = None) -> str:
        length = self.u64(what)
        if most is not None and length > most:
            raise BadModelFile(f"{what} has {length} bytes, more than {most}")
        start = self.need(length, what)
        try:
            return self.data[start : start + length].decode()
        except UnicodeDecodeError:
            raise BadModelFile(f"{what} isn't UTF-8") from None

    def count(self, what: str, most: int) -> int:
        number = self.u64(what)
        if number > most:
            raise BadModelFile(f"{number} is too many for {what} (at most {most})")
        return number

    def value(self, key: str) -> Value:
        kind = self.u32(key)
        if kind == _STRING:
            return self.text(key)
        if kind == _ARRAY:
            return self.array(key)
        found = self.numbers(key, kind, 1)[0]
        plain = found.item()
        return bool(plain) if kind == _BOOL else plain

    def array(self, key: str) -> Value:
        kind = self.u32(key)
        length = self.u64(key)
        self.elements += length
        if self.elements > MAX_ELEMENTS:
            raise BadModelFile(f"{length} elements of {key} are too many for a vocabulary")
        return self.texts(key, length) if kind == _STRING else self.numbers(key, kind, length)

    def texts(self, key: str, length: int) -> tuple[str, ...]:
        # The hot loop of opening a file: text() once per string would triple its time.
        data, size, at, found = self.data, self.size, self.at, []
        if 8 * length > size - at:
            raise BadModelFile(f"the file ends inside {key}")
        try:
            for _ in range(length):
                (bytes_,) = _U64.unpack_from(data, at)
                end = at + 8 + bytes_
                if end > size:
                    raise BadModelFile(f"the file ends inside {key}")
                found.append(data[at + 8 : end].decode())
                at = end
        except struct.error:
            raise BadModelFile(f"the file ends inside {key}") from None
        except UnicodeDecodeError:
            raise BadModelFile(f"{key} holds a string that isn't UTF-8") from None
        self.at = at
        return tuple(found)

    def numbers(self, key: str, kind: int, length: int) -> Number:
        dtype = _SCALARS.get(kind)
        if dtype is None:
            raise BadModelFile(f"{key} has a value of unknown type {kind}")
        start = self.need(length * dtype.itemsize, key)
        return np.frombuffer(self.data, dtype, length, start).copy()


def read_header(data: mmap) -> Header:
    """Read and check the header; every tensor it names lies inside the file.

    Raises ``BadModelFile``.
    """
    scan = _Scan(data)
    if data[:4] != b"GGUF":
        raise BadModelFile("this isn't a GGUF file")
    scan.at = 4
    version = scan.u32("the version")
    if version not in (2, 3):
        raise BadModelFile(f"GGUF version {version:#x} isn't known, only 2 and 3")
    tensors = scan.count("tensors", MAX_TENSORS)
    fields: dict[str, Value] = {}
    for _ in range(scan.count("metadata fields", MAX_FIELDS)):
        key = scan.text("a metadata key", MAX_KEY)
        if key in fields:
            raise BadModelFile(f"metadata key {key!r} stands there twice")
        fields[key] = scan.value(repr(key))
    return Header(fields, _tensors(scan, tensors, fields.get("general.alignment", 32)))


def _tensors(scan: _Scan, count: int, alignment: Value) -> dict[str, Tensor]:
    if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
        raise BadModelFile("general.alignment isn't a power of two from 8 on")
    table = [_tensor(scan) for _ in range(count)]
    base = scan.at + -scan.at % alignment
    tensors: dict[str, Tensor] = {}
    for tensor in table:
        start = base + tensor.offset
        if tensor.name in tensors:
            raise BadModelFile(f"tensor {tensor.name!r} stands there twice")
        if tensor.offset % alignment:
            raise BadModelFile(f"tensor {tensor.name!r} isn't aligned to {alignment}")
        if start + tensor.size > scan.size:
            raise BadModelFile(f"the file ends inside tensor {tensor.name!r}")
        tensors[tensor.name] = Tensor(tensor.name, tensor.kind, tensor.shape, start, tensor.size)
    return tensors


def _tensor(scan: _Scan) -> Tensor:
    name = scan.text("a tensor's name", MAX_KEY)
    dimensions = scan.u32(f"tensor {name!r}")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise BadModelFile(f"tensor {name!r} has {dimensions} dimensions")
    shape = tuple(scan.u64(f"tensor {name!r}") for _ in range(dimensions))[::-1]
    kind = scan.u32(f"tensor {name!r}")
    offset = scan.u64(f"tensor {name!r}")
    try:
        return Tensor(name, kind, shape, offset, byte_size(kind, shape))
    except (KeyError, ValueError):
        raise BadModelFile(f"tensor {name!r} has the unknown type {kind}") from None
    except BadModelFile as error:
        raise BadModelFile(f"tensor {name!r}: {error.message}") from None
