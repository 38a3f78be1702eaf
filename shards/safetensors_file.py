"""A safetensors file, checked before a weight of it is read.

The ``safetensors`` library reads the header (at most 100 MB of it), maps the file and checks that
the tensors fill it without gap or overlap. Added here: bounds on what the header may promise, and
every failure as one named error. Pickled weights are refused: unpickling runs the file's code.
"""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open

from hearthring.protocol.errors import BadModelFile
from hearthring.protocol.tensors import F32

MAX_TENSORS: Final = 1 << 16
MAX_NAME: Final = 1 << 10
MAX_DIMENSIONS: Final = 4
FLOATS: Final = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes per value of the types that weights may have."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the header says of a tensor: a type such as ``BF16``, and a row-major shape."""

    dtype: str
    shape: tuple[int, ...]


class SafetensorsFile:
    """An opened file. ``tensors`` holds what it promises, all of which is inside the file.

    Raises ``BadModelFile`` for everything that isn't a whole safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        names = list(self._file.keys())
        if len(names) > MAX_TENSORS:
            raise self._bad(f"{len(names)} tensors are too many (at most {MAX_TENSORS})")
        self.tensors = {name: self._stored(name) for name in names}

    def rows(self, name: str, start: int, stop: int) -> F32:
        """Rows ``[start, stop)`` along the first axis as float32: a copy of their own.

        Raises ``BadModelFile`` for a name that isn't there or whose type isn't a float's.
        """
        stored = self.tensors.get(name)
        if stored is None:
            raise self._bad(f"there is no tensor {name!r:.200}")
        if stored.dtype not in FLOATS:
            raise self._bad(
                f"tensor {name!r:.200} is of type {stored.dtype}, not {'/'.join(FLOATS)}"
            )
        try:
            found = self._file.get_slice(name)[start:stop]
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise self._bad(f"tensor {name!r:.200} can't be read: {_line(error)}") from None
        wide: F32 = found.float().numpy()
        return np.array(wide, np.float32, order="C")

    def _stored(self, name: str) -> Stored:
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise self._bad(f"{name!r:.80} isn't a tensor's name")
        part = self._file.get_slice(name)
        shape = tuple(part.get_shape())
        if not 1 <= len(shape) <= MAX_DIMENSIONS or not all(shape):
            raise self._bad(f"tensor {name!r:.200} has the shape {list(shape)!s:.80}")
        return Stored(str(part.get_dtype()), shape)

    def _bad(self, message: str) -> BadModelFile:
        return BadModelFile(message, field=str(self.path))


def refuse_pickle(path: Path) -> BadModelFile:
    """The error for a file of pickled weights."""
    return BadModelFile(
        "these are pickled weights, and reading them would run code that the file contains",
        field=str(path),
        mend="take the model's safetensors files, or save them with `save_pretrained`",
    )


def _open(path: Path) -> Any:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise BadModelFile("this isn't a regular file", field=str(path))
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        message = f"this isn't a whole safetensors file: {_line(error)}"
        raise BadModelFile(message, field=str(path)) from None


def _line(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
