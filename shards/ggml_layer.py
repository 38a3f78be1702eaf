"""Llama-family layers as ggml graphs: what is computed, in which order, from which inputs.

A graph is made for rows of one kind. Rows keep their bits whatever they are batched with, because
every operation treats a row by itself:

- a matrix product is one of ``ggml_products.py`` or, for prompt rows, of ``ggml_wide.py``;
- attention of generated rows is ggml's one-row flash attention: it adds up one slot after the
  other and passes over masked ones, so only the order of the slots of a path matters;
- attention of prompt rows is ggml's tiled flash attention, where slot must be position: tiles of
  keys are cut by slot. Within a tile of 64 rows each has its own sums; fewer rows are padded.
"""

from dataclasses import dataclass, field
from typing import Any

from hearthring.protocol.tensors import Residual
from hearthring.shards.engine import Kind, Window
from hearthring.shards.ggml_kv import KEY, VALUE, kv_bytes
from hearthring.shards.ggml_library import BF16, F16, F32, I32, I64, Q8_0, Ggml
from hearthring.shards.ggml_memory import Memory, Pointer
from hearthring.shards.ggml_policy import Policy
from hearthring.shards.ggml_products import MANY, Batching
from hearthring.shards.ggml_weights import EVERYWHERE, LoadedWeights, Matrix, Sort
from hearthring.shards.ggml_wide import Blas, Widener, WideProducts
from hearthring.shards.shape import Shape

TILE = 64
"""Rows from which on ggml's flash attention works in tiles."""

_KV = {"f16": F16, "q8_0": Q8_0}
_ROUND = {Residual.FP16: F16, Residual.BF16: BF16}


@dataclass(frozen=True, slots=True)
class GraphKey:
    """What a graph is made for. ``parts``: rows, slots in sight and capacity per session."""

    window: Window
    kind: Kind
    parts: tuple[tuple[int, int, int], ...]
    taps: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part[0] for part in self.parts)


@dataclass(frozen=True, slots=True)
class Model:
    """What graphs are made of, whatever their rows."""

    ggml: Ggml
    weights: LoadedWeights
    shape: Shape
    residual: Residual
    policy: Policy
    batching: dict[Sort, Batching]
    wide: tuple[Blas, Widener] | None
    """For the products of prompt rows, if the policy has them in float32."""

    def mask_rows(self, key: GraphKey, count: int) -> int:
        """Rows of the mask over ``count`` rows of a part."""
        tiled = key.kind is Kind.PROMPT and self.policy.exact and self.policy.kv == "f16"
        return max(TILE, count) if tiled else count


@dataclass(slots=True)
class PartInputs:
    """One session's inputs. ``held``: tensors over its cache, and which K or V."""

    slots: Pointer
    mask: Pointer
    held: list[tuple[Pointer, int]] = field(default_factory=list)


class LayerGraph:
    """A graph over the layers of a window, not yet allocated.

    ``states``, ``positions`` and ``parts`` are its inputs, ``result`` and ``taps`` its outputs.
    """

    def __init__(self, model: Model, key: GraphKey) -> None:
        self._call, self._shape = model.ggml.calls, model.shape
        self._model, self._weights, self._key = model, model.weights, key
        start, end = key.window
        tensors = (end - start) * (52 + 20 * len(key.parts)) + 2 * len(key.parts) + 8
        self.memory = Memory(model.ggml, tensors, tensors)
        self._context = self.memory.context
        self.handle = self._call.ggml_new_graph_custom(self._context, tensors, False)
        self._count = key.rows
        self.states = self._input(F32, model.shape.width, self._count)
        self.positions = self._input(I32, self._count)
        self.parts = [
            PartInputs(
                self._input(I64, count), self._input(F16, visible, model.mask_rows(key, count))
            )
            for count, visible, _ in key.parts
        ]
        self.wide = None
        if model.wide is not None and key.kind is Kind.PROMPT:
            self.wide = WideProducts(model.ggml, *model.wide)
        self.taps: dict[int, Pointer] = {}
        state = self.states
        for local, layer in enumerate(range(start, end)):
            state = self._layer(local, f"blk.{layer}.", state)
            if model.residual in _ROUND:
                state = self._do("cast", self._do("cast", state, _ROUND[model.residual]), F32)
            if layer + 1 in key.taps:
                self._call.ggml_set_output(state)
                self.taps[layer + 1] = state
        self.result = state
        self._call.ggml_set_output(state)
        self._expand(state)

    def _do(self, name: str, *arguments: Any) -> Pointer:
        tensor: Pointer = getattr(self._call, f"ggml_{name}")(self._context, *arguments)
        return tensor

    def _input(self, kind: int, *size: int) -> Pointer:
        tensor = self._do(f"new_tensor_{len(size)}d", kind, *size)
        self._call.ggml_set_input(tensor)
        return tensor

    def _expand(self, tensor: Pointer) -> None:
        self._call.ggml_build_forward_expand(self.handle, tensor)

    def _layer(self, local: int, blk: str, state: Pointer) -> Pointer:
        normed = self._norm(state, blk + "attn_norm")
        mixed = self._attention(local, blk, normed)
        state = self._do("add", self._product(blk + "attn_output", mixed), state)
        normed = self._norm(state, blk + "ffn_norm")
        return self._do("add", self._feed_forward(blk, normed), state)

    def _norm(self, state: Pointer, name: str) -> Pointer:
        normed = self._do("rms_norm", state, self._shape.norm_epsilon)
        return self._do("mul", normed, self._weights.vectors[name + ".weight"])

    def _feed_forward(self, blk: str, normed: Pointer) -> Pointer:
        both = self._weights.joined.get(blk + "ffn_gate.weight")
        # Outputs beside each other are sums of their own in every kernel that keeps rows apart.
        if both is not None and self.wide is None and self._model.batching[both.sort].any_size:
            gated = self._do("swiglu", self._do("mul_mat", both.tensor, normed))
            return self._product(blk + "ffn_down", gated)
        gate = self._product(blk + "ffn_gate", normed)
        up = self._product(blk + "ffn_up", normed)
        return self._product(blk + "ffn_down", self._do("swiglu_split", gate, up))

    def _product(self, name: str, state: Pointer) -> Pointer:
        """Rows ``[count, inner]`` times a matrix, by the kernel of their kind."""
        matrix = self._weights.matrices[name + ".weight"]
        if self.wide is not None:
            return self.wide.node(self._context, matrix, state, self._count)
        may, prompt = self._model.batching[matrix.sort], self._key.kind is Kind.PROMPT
        if may.any_size or (prompt and may.padded and self._count % MANY == 0):
            return self._do("mul_mat", matrix.tensor, state)
        if prompt and may.padded:
            rows = -(-self._count // MANY) * MANY
            padded = self._do("pad", state, 0, rows - self._count, 0, 0)
            out = self._do("mul_mat", matrix.tensor, padded)
            return self._do("view_2d", out, matrix.outer, self._count, matrix.outer * 4, 0)
        return self._apart(matrix, state)

    def _apart(self, matrix: Matrix, state: Pointer) -> Pointer:
        """The product as matrices of one row each."""
        if self._count == 1:
            return self._do("mul_mat", matrix.tensor, state)
        apart = self._do("reshape_3d", state, matrix.inner, 1, self._count)
        out = self._do("mul_mat", matrix.tensor, apart)
        return self._do("reshape_2d", out, matrix.outer, self._count)

    def _rotated(self, flat: Pointer, heads: int) -> Pointer:
        shape = self._shape
        split = self._do("reshape_3d", flat, shape.head_width, heads, self._count)
        mode = 0 if shape.interleaved_rope else 2
        angles = (shape.head_width, mode, 0, shape.rope_base, 1.0, 0.0, 1.0, 32.0, 1.0)
        return self._do("rope_ext", split, self.positions, None, *angles)

    def _attention(self, local: int, blk: str, normed: Pointer) -> Pointer:
        """All rows' attention ``[rows, heads * head_width]``, before the output matrix."""
        shape = self._shape
        keys = shape.kv_heads * shape.head_width
        q = self._product(blk + "attn_q", normed)
        k = self._product(blk + "attn_k", normed)
        v = self._product(blk + "attn_v", normed)
        q = self._rotated(q, shape.heads)
        k = self._do("reshape_2d", self._rotated(k, shape.kv_heads), keys, self._count)
        self._expand(q)
        # Nothing consumes the writes, so they must enter the graph before the reads.
        caches = self._written(local, k, v)
        mixed = []
        first = 0
        for (count, visible, _), inputs, pair in zip(
            self._key.parts, self.parts, caches, strict=True
        ):
            mixed.append(self._attended(local, q, (first, count, visible), inputs, pair))
            first += count
        while len(mixed) > 1:
            mixed = [
                self._do("concat", *mixed[i : i + 2], 1) if i + 1 < len(mixed) else mixed[i]
                for i in range(0, len(mixed), 2)
            ]
        return mixed[0]

    def _written(self, local: int, k: Pointer, v: Pointer) -> list[list[Pointer]]:
        """Puts new keys and values into the caches, session by session; returns these."""
        row = self._shape.kv_heads * self._shape.head_width
        caches: list[list[Pointer]] = []
        first = 0
        for (count, _, capacity), inputs in zip(self._key.parts, self.parts, strict=True):
            caches.append([])
            for which, new in ((KEY, k), (VALUE, v)):
                cache = self._do("new_tensor_2d", _KV[self._model.policy.kv], row, capacity)
                self._call.ggml_backend_tensor_alloc(self._weights.anywhere, cache, EVERYWHERE[0])
                part = self._do("view_2d", new, row, count, row * 4, first * row * 4)
                written = self._do("set_rows", cache, part, inputs.slots)
                self._expand(written)
                caches[-1].append(cache)
                inputs.held += [(cache, 2 * local + which), (written, 2 * local + which)]
            first += count
        return caches

    def _attended(
        self,
        local: int,
        q: Pointer,
        part: tuple[int, int, int],
        inputs: PartInputs,
        pair: list[Pointer],
    ) -> Pointer:
        """One session's attention; ``part``: its first row, rows, and slots in sight."""
        shape, (first, count, visible) = self._shape, part
        width, row = shape.head_width, shape.kv_heads * shape.head_width
        stride = shape.heads * width * 4
        mine = self._do("view_3d", q, width, shape.heads, count, width * 4, stride, first * stride)
        padding = self._model.mask_rows(self._key, count) - count
        if padding:
            mine = self._do("pad", mine, 0, 0, padding, 0)
        mine = self._do("permute", mine, 0, 2, 1, 3)
        seen = []
        for which, cache in enumerate(pair):
            kind = self._model.policy.kv
            strides = kv_bytes(kind, row), kv_bytes(kind, width)
            size = (width, visible, shape.kv_heads, *strides, 0)
            seen.append(self._do("view_3d", cache, *size))
            inputs.held.append((seen[-1], 2 * local + which))
        scale = width**-0.5
        out = self._do("flash_attn_ext", mine, *seen, inputs.mask, scale, 0.0, 0.0)
        return self._do("view_2d", out, shape.heads * width, count, stride, 0)
