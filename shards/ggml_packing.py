"""Weights in ggml's interleaved layout, whose kernels take several outputs at a time."""

import ctypes as c
import mmap
import weakref
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.errors import EngineUnavailable
from hearthring.shards.ggml_library import DATA_OFFSET, Ggml
from hearthring.shards.ggml_memory import Memory, Pointer
from hearthring.shards.gguf_header import byte_size

_EXTRA = DATA_OFFSET + 72  # where a tensor says which layout it has: after its data and name
_WEIGHTS = 1  # GGML_BACKEND_BUFFER_USAGE_WEIGHTS
_LINE = 64
"""Bytes that a packed matrix's begin is a multiple of, in its memory."""


# ggml writes a line for each tensor it packs.
_SILENT = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda *_: None)

Matrices = Iterable[tuple[int, tuple[int, ...], NDArray[np.uint8]]]
"""ggml type, row-major shape and bytes of each."""


class Packing:
    """Packed tensors in one memory, each behind the one packed before. It ends with this object.

    There is room for those of ``matrices`` that ``takes`` allows. Raises ``EngineUnavailable``
    where there isn't.
    """

    def __init__(self, ggml: Ggml, matrices: Matrices) -> None:
        self._ggml = ggml
        self._call = call = ggml.calls
        self._type = call._Z35ggml_backend_cpu_repack_buffer_typev()
        self._known: dict[tuple[int, tuple[int, ...]], bool] = {}
        call.ggml_log_set(_SILENT, None)
        taken = [data.nbytes for kind, shape, data in matrices if self.takes(kind, shape)]
        size = sum(map(_whole_lines, taken)) + _LINE
        self._memory = Memory(ggml, 2 * len(taken) + 1)
        self._buffer: Pointer | None = call.ggml_backend_buft_alloc_buffer(self._type, size)
        if not self._buffer:
            raise _no_memory(size)
        weakref.finalize(self, call.ggml_backend_buffer_free, self._buffer)
        _want_large_pages(call, self._buffer)
        call.ggml_backend_buffer_set_usage(self._buffer, _WEIGHTS)
        self._end: Pointer = _whole_lines(call.ggml_backend_buffer_get_base(self._buffer))

    def takes(self, kind: int, shape: tuple[int, ...]) -> bool:
        """Whether there is a layout for such a matrix on this processor."""
        if len(shape) != 2:
            return False
        if (kind, shape) not in self._known:
            memory = Memory(self._ggml, 1)
            tensor = self._call.ggml_new_tensor_2d(memory.context, kind, *reversed(shape))
            buffer: Pointer | None = self._call.ggml_backend_alloc_ctx_tensors_from_buft(
                memory.context, self._type
            )
            if not buffer:
                raise _no_memory(byte_size(kind, shape))
            self._known[kind, shape] = bool(c.c_void_p.from_address(tensor + _EXTRA).value)
            self._call.ggml_backend_buffer_free(buffer)
        return self._known[kind, shape]

    def pack(self, kind: int, shape: tuple[int, ...], data: NDArray[np.uint8]) -> Pointer:
        """A packed copy of one of ``matrices``, each of which is packed once."""
        tensor = self._tensor(kind, shape, self._end)
        self._call.ggml_backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)
        self._end += _whole_lines(data.nbytes)
        return tensor

    def over(self, first: Pointer, kind: int, shape: tuple[int, ...]) -> Pointer:
        """A tensor over packed ones that lie one behind the other, from ``first`` on."""
        return self._tensor(kind, shape, self._call.ggml_get_data(first))

    def _tensor(self, kind: int, shape: tuple[int, ...], place: Pointer) -> Pointer:
        call = self._call
        tensor: Pointer = call.ggml_new_tensor_2d(self._memory.context, kind, *reversed(shape))
        call.ggml_backend_tensor_alloc(self._buffer, tensor, place)
        return tensor


def _whole_lines(size: int) -> int:
    return -(-size // _LINE) * _LINE


def _no_memory(size: int) -> EngineUnavailable:
    return EngineUnavailable(
        f"no memory for {size >> 20} MiB of packed weights",
        field="repack",
        mend="load fewer layers",
    )


def _want_large_pages(call: c.CDLL, buffer: Pointer) -> None:
    """Ask for large pages under a buffer that nothing is in yet: decoding reads all of it for each
    row, and looking up its small pages takes a tenth of the time. Only a hint, and Linux's."""
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:
        return
    base, size = (
        call.ggml_backend_buffer_get_base(buffer),
        call.ggml_backend_buffer_get_size(buffer),
    )
    start = -(-base // mmap.PAGESIZE) * mmap.PAGESIZE
    if size > mmap.PAGESIZE:
        madvise = c.CDLL(None).madvise
        madvise.argtypes = c.c_void_p, c.c_size_t, c.c_int
        madvise(start, base + size - start, advice)
