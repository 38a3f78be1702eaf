"""Stored keys and values as bytes, and from one type to another.

A row is what a cache keeps of one position at one layer: the K (or V) of all KV heads, one after
the other, in the type of the cache.
"""

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.errors import BadShape, NonFinite
from hearthring.protocol.tensors import F32, bf16_bits

KV_TYPES = ("f32", "f16", "bf16", "q8_0")
_BLOCK = 32
_Q8 = np.dtype([("scale", "<f2"), ("values", "i1", _BLOCK)])


def kv_row_bytes(kind: str, values: int) -> int:
    """Bytes of a row of so many values. Raises ``BadShape`` for a type or size there isn't."""
    if kind not in KV_TYPES or (kind == "q8_0" and values % _BLOCK):
        raise BadShape(f"no rows of {values} values in {kind!r:.40}", field="kv")
    if kind == "q8_0":
        return values // _BLOCK * _Q8.itemsize
    return values * (4 if kind == "f32" else 2)


def kv_floats(kind: str, data: bytes, values: int) -> F32:
    """Stored rows ``[rows, values]`` as float32, nothing lost.

    Raises ``BadShape`` for a length that isn't of whole rows, ``NonFinite``.
    """
    rows, rest = divmod(len(data), kv_row_bytes(kind, values))
    if rest:
        raise BadShape(f"{len(data)} bytes are no rows of {values} in {kind}", field="kv")
    floats: F32
    if kind == "q8_0":
        blocks = np.frombuffer(data, _Q8).reshape(rows, -1)
        scaled = blocks["values"].astype(np.float32) * blocks["scale"][..., None].astype(np.float32)
        floats = scaled.reshape(rows, values)
    elif kind == "bf16":
        words = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        floats = words.view(np.float32).reshape(rows, values)
    else:
        stored = np.frombuffer(data, "<f4" if kind == "f32" else "<f2")
        floats = stored.astype(np.float32).reshape(rows, values)
    if not np.isfinite(floats).all():
        raise NonFinite("an infinity or a NaN", field="kv")
    return floats


def kv_bytes_of(kind: str, floats: F32) -> NDArray[np.uint8]:
    """Rows ``[rows, values]`` in a type, ``[rows, bytes]``; rounded where it is narrower."""
    rows, values = floats.shape
    size = kv_row_bytes(kind, values)
    if kind == "q8_0":
        parts = floats.reshape(rows, -1, _BLOCK)
        scale = np.abs(parts).max(axis=2) / np.float32(127)
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
        blocks = np.empty(scale.shape, _Q8)
        blocks["scale"] = scale
        blocks["values"] = np.rint(parts * inverse[..., None])
        return blocks.view(np.uint8).reshape(rows, size)
    if kind == "bf16":
        narrow: NDArray[np.generic] = bf16_bits(floats).astype("<u2")
    else:
        with np.errstate(over="ignore"):
            narrow = floats.astype("<f4" if kind == "f32" else "<f2")
    return np.ascontiguousarray(narrow).view(np.uint8).reshape(rows, size)
