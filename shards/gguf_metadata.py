"""Typed access to the metadata of a GGUF file: a value of another type is one named error."""

from math import isfinite

import numpy as np

from hearthring.protocol.errors import BadModelFile
from hearthring.shards.gguf_header import Value
from hearthring.shards.shape import MAX_COUNT


class Metadata:
    """Metadata by key. ``source`` is the field of every error."""

    def __init__(self, found: dict[str, Value], source: str) -> None:
        self._found, self._source = found, source

    def fields(self, prefix: str) -> dict[str, Value]:
        """All metadata whose key begins with ``prefix``."""
        return {key: value for key, value in self._found.items() if key.startswith(prefix)}

    def text(self, key: str) -> str | None:
        """A string of the metadata; ``None`` without it. Another type is a ``BadModelFile``."""
        value = self._found.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self._wrong(key, "a string")

    def flag(self, key: str) -> bool | None:
        """A yes or no of the metadata; ``None`` without it. Another type is a ``BadModelFile``."""
        value = self._found.get(key)
        if value is None or isinstance(value, bool):
            return value
        raise self._wrong(key, "a yes or no")

    def integer(self, key: str, low: int = 0, high: int = MAX_COUNT) -> int | None:
        """An integer in ``[low, high]``; ``None`` without it. All else is a ``BadModelFile``."""
        value = self._found.get(key)
        if value is None or (type(value) is int and low <= value <= high):
            return value
        raise self._wrong(key, f"an integer from {low} to {high}")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty without it. Another type is a ``BadModelFile``."""
        value = self._found.get(key, ())
        if isinstance(value, tuple):
            return value
        raise self._wrong(key, "a list of strings")

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of integers (or of yes and no, as 1 and 0); empty without it. Another type is a
        ``BadModelFile``."""
        value = self._found.get(key)
        if value is None:
            return ()
        if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
            return tuple(value.tolist())
        raise self._wrong(key, "a list of integers")

    def count(self, key: str, default: int | None = None, high: int = MAX_COUNT) -> int:
        """An integer in ``[1, high]``, or the default. All else is a ``BadModelFile``."""
        found = self.integer(key, 1, high)
        if found is None and default is None:
            raise BadModelFile(f"metadata {key} is missing", field=self._source)
        return found if found is not None else default or 0

    def real(self, key: str, default: float | None = None) -> float:
        """A positive number, or the default. All else is a ``BadModelFile``."""
        value = self._found.get(key, default)
        if value is None:
            raise BadModelFile(f"metadata {key} is missing", field=self._source)
        if value is default:
            return float(value)
        if not isinstance(value, float) or not isfinite(value) or value <= 0:
            raise self._wrong(key, "a positive number")
        return value

    def _wrong(self, key: str, wanted: str) -> BadModelFile:
        return BadModelFile(f"metadata {key} isn't {wanted}", field=self._source)
