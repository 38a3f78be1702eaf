"""Where ggml's structs lie, and how to look at its tensors."""

import ctypes as c
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hearthring.shards.ggml_library import DATA_OFFSET, Ggml, InitParams

Pointer = int

EVERYWHERE = 4096, 1 << 48
"""Begin and size of a buffer that has all memory of the process in it: Linux maps up to 47 bits on
x86, and 48 on ARM. It can't begin at 0."""


class Memory:
    """A ggml context whose structs lie in an array of ours, and its C objects' lives."""

    def __init__(self, ggml: Ggml, tensors: int, nodes: int = 0) -> None:
        call = ggml.calls
        size = tensors * call.ggml_tensor_overhead() + 64
        if nodes:
            size += call.ggml_graph_overhead_custom(nodes, False)
        self.words = np.empty(-(-size // 8), np.uint64)
        self.base = self.words.ctypes.data
        self.context = call.ggml_init(InitParams(self.words.nbytes, self.base, True))
        weakref.finalize(self, call.ggml_free, self.context)

    def data_index(self, tensor: Pointer) -> int:
        """Where in ``words`` a tensor keeps its data pointer."""
        return (tensor + DATA_OFFSET - self.base) // 8


def view(call: c.CDLL, tensor: Pointer, kind: type[Any], *shape: int) -> NDArray[Any]:
    """The memory of an allocated tensor as an array, valid as long as the tensor's allocator."""
    pointer = c.cast(call.ggml_get_data(tensor), c.POINTER(kind))
    return np.ctypeslib.as_array(pointer, (int(np.prod(shape)),)).reshape(shape)
