"""Embedding, final norm and head as ggml graphs, so that ``engine.py`` compares engines alone."""

import ctypes as c
from typing import Any

import numpy as np

from hearthring.protocol.tensors import Residual
from hearthring.shards.ends import head_of
from hearthring.shards.ggml_library import BF16, F16, F32, I32, load_ggml
from hearthring.shards.ggml_memory import Memory, view
from hearthring.shards.ggml_packing import Packing
from hearthring.shards.gguf_file import GgufFile

ROUND = {Residual.FP16: F16, Residual.BF16: BF16}


class GgmlEnds:
    """The ends of a model file, for batches of any size; a graph is kept per size.

    ``repack``: the head in ggml's interleaved layout where there is one, as llama.cpp has it.
    """

    def __init__(
        self, file: GgufFile, residual: Residual, threads: int, repack: bool = False
    ) -> None:
        self._packing = Packing(load_ggml(), [file.raw(head_of(file.shape))]) if repack else None
        self._packed: int | None = None
        self._call, self._file, self._residual = load_ggml().calls, file, residual
        self._backend = self._call.ggml_backend_cpu_init()
        self._call.ggml_backend_cpu_set_n_threads(self._backend, threads)
        self._anywhere = self._call.ggml_backend_cpu_buffer_from_ptr(4096, 1 << 47)
        self._embeds: dict[int, Any] = {}
        self._heads: dict[int, Any] = {}

    def embed(self, ids: list[int]) -> np.ndarray:
        """Rounded embeddings ``[n, width]``, overwritten by the next call of the size."""
        if len(ids) not in self._embeds:
            self._embeds[len(ids)] = self._graph(len(ids), self._embedding)
        return self._run(self._embeds[len(ids)], np.array(ids, np.int32))

    def logits(self, rows: np.ndarray) -> np.ndarray:
        """Logits ``[n, vocabulary]``, overwritten likewise."""
        if len(rows) not in self._heads:
            self._heads[len(rows)] = self._graph(len(rows), self._head)
        return self._run(self._heads[len(rows)], rows)

    def _embedding(self, at: int, count: int) -> tuple[int, int, int, int]:
        call, shape = self._call, self._file.shape
        given = call.ggml_new_tensor_1d(at, I32, count)
        call.ggml_set_input(given)
        out = call.ggml_get_rows(at, self._weight(at, "token_embd.weight"), given)
        if self._residual in ROUND:
            out = call.ggml_cast(at, call.ggml_cast(at, out, ROUND[self._residual]), F32)
        return given, out, 1, shape.width

    def _head(self, at: int, count: int) -> tuple[int, int, int, int]:
        call, shape = self._call, self._file.shape
        given = call.ggml_new_tensor_2d(at, F32, shape.width, count)
        call.ggml_set_input(given)
        normed = call.ggml_rms_norm(at, given, shape.norm_epsilon)
        normed = call.ggml_mul(at, normed, self._weight(at, "output_norm.weight"))
        out = call.ggml_mul_mat(at, self._output(at), normed)
        return given, out, shape.width, shape.vocabulary

    def _output(self, at: int) -> int:
        name = head_of(self._file.shape)
        if self._packing is None or not self._packing.takes(*self._file.raw(name)[:2]):
            return self._weight(at, name)
        if self._packed is None:
            self._packed = self._packing.pack(*self._file.raw(name))
        return self._packed

    def _weight(self, at: int, name: str) -> int:
        kind, shape, data = self._file.raw(name)
        new = getattr(self._call, f"ggml_new_tensor_{len(shape)}d")
        tensor: int = new(at, kind, *reversed(shape))
        self._call.ggml_backend_tensor_alloc(self._anywhere, tensor, data.ctypes.data)
        return tensor

    def _graph(self, count: int, build: Any) -> Any:
        call, memory = self._call, Memory(load_ggml(), 16, 16)
        given, out, inner, outer = build(memory.context, count)
        call.ggml_set_output(out)
        graph = call.ggml_new_graph_custom(memory.context, 16, False)
        call.ggml_build_forward_expand(graph, out)
        allocator = call.ggml_gallocr_new(call.ggml_backend_cpu_buffer_type())
        assert call.ggml_gallocr_alloc_graph(allocator, graph)
        shape = (count,) if inner == 1 else (count, inner)
        kind = c.c_int32 if inner == 1 else c.c_float
        return (
            memory,
            graph,
            view(call, given, kind, *shape),
            view(call, out, c.c_float, count, outer),
        )

    def _run(self, kept: Any, given: np.ndarray) -> np.ndarray:
        _, graph, operand, result = kept
        operand[...] = given
        assert self._call.ggml_backend_graph_compute(self._backend, graph) == 0
        return result  # type: ignore[no-any-return]
