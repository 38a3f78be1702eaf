"""Weights in ggml's interleaved layout, whose kernels take several outputs at a time."""

import ctypes as c
import mmap
import weakref

import numpy as np
from numpy.typing import NDArray

from hearthring.protocol.errors import EngineUnavailable
from hearthring.shards.ggml_library import DATA_OFFSET, Ggml
from hearthring.shards.ggml_memory import Memory, Pointer

_EXTRA = DATA_OFFSET + 72  # where a tensor says which layout it has: after its data and name
_WEIGHTS = 1  # GGML_BACKEND_BUFFER_USAGE_WEIGHTS


# ggml writes a line for each tensor it packs.
_SILENT = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda *_: None)


class Packing:
    """Packed tensors and their memory, which ends with this object."""

    def __init__(self, ggml: Ggml) -> None:
        self._ggml = ggml
        self._type = ggml.calls._Z35ggml_backend_cpu_repack_buffer_typev()
        self._memories: list[Memory] = []
        self._known: dict[tuple[int, tuple[int, ...]], bool] = {}
        ggml.calls.ggml_log_set(_SILENT, None)

    def takes(self, kind: int, shape: tuple[int, ...]) -> bool:
        """Whether there is a layout for such a matrix on this processor."""
        if len(shape) != 2:
            return False
        if (kind, shape) not in self._known:
            memory, tensor, buffer = self._allocate(kind, shape)
            extra = c.c_void_p.from_address(tensor + _EXTRA).value
            self._known[kind, shape] = bool(extra)
            self._ggml.calls.ggml_backend_buffer_free(buffer)
            del memory
        return self._known[kind, shape]

    def pack(self, kind: int, shape: tuple[int, ...], data: NDArray[np.uint8]) -> Pointer:
        """A packed copy of a matrix that ``takes`` allows."""
        memory, tensor, buffer = self._allocate(kind, shape)
        _want_large_pages(self._ggml.calls, buffer)
        weakref.finalize(memory, self._ggml.calls.ggml_backend_buffer_free, buffer)
        self._memories.append(memory)
        self._ggml.calls.ggml_backend_buffer_set_usage(buffer, _WEIGHTS)
        self._ggml.calls.ggml_backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)
        return tensor

    def _allocate(self, kind: int, shape: tuple[int, ...]) -> tuple[Memory, Pointer, Pointer]:
        call = self._ggml.calls
        memory = Memory(self._ggml, 1)
        tensor: Pointer = call.ggml_new_tensor_2d(memory.context, kind, *reversed(shape))
        buffer: Pointer | None = call.ggml_backend_alloc_ctx_tensors_from_buft(
            memory.context, self._type
        )
        if not buffer:
            raise EngineUnavailable(
                "no memory for packed weights", field="repack", mend="load fewer layers"
            )
        return memory, tensor, buffer


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
