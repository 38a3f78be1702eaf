"""Layers of every family as ggml graphs: what is computed, in which order, from which inputs.

A graph is made for rows of one kind. Rows keep their bits whatever they are batched with, because
every operation treats a row by itself:

- a matrix product is one of ``ggml_products.py`` or, for prompt rows, of ``ggml_wide.py``;
- attention of generated rows is ggml's one-row flash attention: it adds up one slot after the
  other and passes over masked ones, so only the order of the slots of a path matters;
- attention of prompt rows is ggml's tiled flash attention, where slot must be position: tiles of
  keys are cut by slot. Within a tile of 64 rows each has its own sums; fewer rows are padded;
- the products of experts are one dot product per row and output. For some types that changes once
  eight rows share an expert, so no more rows than keep it go into one product.
"""

from dataclasses import dataclass, field
from typing import Any

from hearthring.protocol.tensors import Residual
from hearthring.shards.engine import Kind, Window
from hearthring.shards.families import Activation, family, layer_parts
from hearthring.shards.ggml_experts import Mixture, expert_nodes, joined
from hearthring.shards.ggml_kv import KEY, VALUE, first_row, kv_bytes
from hearthring.shards.ggml_library import BF16, F16, F32, I32, I64, Q8_0, Ggml
from hearthring.shards.ggml_memory import EVERYWHERE, Memory, Pointer
from hearthring.shards.ggml_policy import Policy
from hearthring.shards.ggml_products import MANY, Batching
from hearthring.shards.ggml_weights import LoadedWeights, Matrix, Sort
from hearthring.shards.ggml_wide import Blas, Widener, WideProducts
from hearthring.shards.shape import Shape

TILE = 64
"""Rows from which on ggml's flash attention works in tiles."""

_KV = {"f16": F16, "q8_0": Q8_0}
_WIRE = {Residual.FP32: F32, Residual.FP16: F16, Residual.BF16: BF16}


@dataclass(frozen=True, slots=True)
class GraphKey:
    """What a graph is made for. ``parts``: rows, slots in sight and room for slots per session.

    ``traced``: it shows the residual after every layer.
    """

    window: Window
    kind: Kind
    parts: tuple[tuple[int, int, int], ...]
    taps: tuple[int, ...]
    traced: bool = False

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
    expert_rows: int
    """Rows that one product of experts may have."""
    wide: tuple[Blas, Widener] | None
    """For the products of prompt rows, if the policy has them in float32."""

    def mask_rows(self, key: GraphKey, count: int) -> int:
        """Rows of the mask over ``count`` rows of a part."""
        tiled = key.kind is Kind.PROMPT and self.policy.exact and self.policy.kv == "f16"
        return max(TILE, count) if tiled else count


@dataclass(slots=True)
class PartInputs:
    """One session's inputs. ``masks``: one per sliding window, 0 for none. ``held``: tensors over
    its cache, and which K or V."""

    masks: dict[int, Pointer]
    held: list[tuple[Pointer, int]] = field(default_factory=list)


class LayerGraph:
    """A graph over the layers of a window, not yet allocated.

    ``states``, ``positions`` and ``parts`` are its inputs, ``result``, ``taps`` and, where there is
    one, ``trace`` its outputs: the last holds the residual after every layer, in its own type.
    """

    def __init__(self, model: Model, key: GraphKey) -> None:
        self._call, self._shape = model.ggml.calls, model.shape
        self._model, self._weights, self._key = model, model.weights, key
        self._family = family(model.shape.architecture)
        self._glu = "swiglu" if self._family.activation is Activation.SILU else "geglu"
        start, end = key.window
        nodes = 18 + 4 * len(layer_parts(model.shape))
        if model.shape.experts:
            nodes += expert_nodes(model.shape, key.rows, model.expert_rows)
        self.windows = sorted({model.shape.window(layer) for layer in range(start, end)})
        inputs = (1 + len(self.windows)) * len(key.parts)
        tensors = (end - start) * (nodes + 24 * len(key.parts)) + inputs + 8
        self.memory = Memory(model.ggml, tensors, tensors)
        self._context = self.memory.context
        self.handle = self._call.ggml_new_graph_custom(self._context, tensors, False)
        self._count = key.rows
        self.states = self._input(F32, model.shape.width, self._count)
        self.positions = self._input(I32, self._count)
        self._stored = self._count * model.shape.kv_heads
        self.homes = self._input(I64, self._stored, 2 * (end - start))
        self._anywhere = self._all_memory()
        self.parts = [
            PartInputs(
                {
                    window: self._input(F16, visible, model.mask_rows(key, count))
                    for window in self.windows
                },
            )
            for count, visible, _ in key.parts
        ]
        self.wide = None
        if model.wide is not None and key.kind is Kind.PROMPT:
            self.wide = WideProducts(model.ggml, *model.wide)
        self.taps: dict[int, Pointer] = {}
        self.mixed = self._room_for_attention()
        self.placed: list[tuple[Pointer, int]] = []
        """Tensors whose data lie in ``mixed``, and at which byte."""
        self.trace = self._room_for_trace(end - start) if key.traced else None
        state = self.states
        for local, layer in enumerate(range(start, end)):
            state = self._rounded(local, self._layer(local, layer, state))
            if layer + 1 in key.taps:
                self._call.ggml_set_output(state)
                self.taps[layer + 1] = state
        self.result = state
        self._call.ggml_set_output(state)
        self._expand(state)

    def _room_for_attention(self) -> Pointer | None:
        """Where sessions lay their attention side by side; none if there is nothing to join, or
        if rows are padded, so that there is more of it than belongs there."""
        counts = [count for count, *_ in self._key.parts]
        if len(counts) == 1 or any(self._model.mask_rows(self._key, n) > n for n in counts):
            return None
        return self._input(F32, self._shape.heads * self._shape.head_width, self._count)

    def _room_for_trace(self, layers: int) -> Pointer:
        wire = _WIRE[self._model.residual]
        trace = self._input(wire, self._shape.width, layers * self._count)
        self._call.ggml_set_output(trace)
        return trace

    def _rounded(self, local: int, state: Pointer) -> Pointer:
        """The residual in its type; on its way there it passes through the trace, if any."""
        kind = self._model.residual
        if self.trace is None:
            if kind is Residual.FP32:
                return state
            return self._do("cast", self._do("cast", state, _WIRE[kind]), F32)
        row = self._shape.width * kind.bytes
        at = local * self._count * row
        place = self._do("view_2d", self.trace, self._shape.width, self._count, row, at)
        kept = self._do("cpy", state, place)
        if kind is not Residual.FP32:
            return self._do("cast", kept, F32)
        self._expand(kept)  # nothing reads it
        return state

    def _do(self, name: str, *arguments: Any) -> Pointer:
        tensor: Pointer = getattr(self._call, f"ggml_{name}")(self._context, *arguments)
        return tensor

    def _input(self, kind: int, *size: int) -> Pointer:
        tensor = self._do(f"new_tensor_{len(size)}d", kind, *size)
        self._call.ggml_set_input(tensor)
        return tensor

    def _expand(self, tensor: Pointer) -> None:
        self._call.ggml_build_forward_expand(self.handle, tensor)

    def _layer(self, local: int, layer: int, state: Pointer) -> Pointer:
        blk, post = f"blk.{layer}.", self._family.post_norms
        made = self._attention(local, layer, self._norm(state, blk + "attn_norm"))
        made = self._product(blk + "attn_output", made)
        if post:
            made = self._norm(made, blk + "post_attention_norm")
        state = self._do("add", made, state)
        normed = self._norm(state, blk + "ffn_norm")
        made = self._experts(blk, normed) if self._shape.experts else self._dense(blk, normed)
        if post:
            made = self._norm(made, blk + "post_ffw_norm")
        return self._do("add", made, state)

    def _norm(self, state: Pointer, name: str) -> Pointer:
        normed = self._do("rms_norm", state, self._shape.norm_epsilon)
        return self._do("mul", normed, self._weights.vectors[name + ".weight"])

    def _dense(self, blk: str, normed: Pointer) -> Pointer:
        both = self._together(blk + "ffn_gate")
        if both is not None and (self._alone or self._model.batching[both.sort].any_size):
            gated = self._do(self._glu, self._do("mul_mat", both.tensor, normed))
            return self._product(blk + "ffn_down", gated)
        up = self._product(blk + "ffn_up", normed)
        if self._family.fused:  # the gate is the first half
            gated = self._do(self._glu, up)
        else:
            gated = self._do(self._glu + "_split", self._product(blk + "ffn_gate", normed), up)
        return self._product(blk + "ffn_down", gated)

    @property
    def _alone(self) -> bool:
        return self._count == 1 and self._key.kind is Kind.GENERATED

    def _together(self, first: str) -> Matrix | None:
        """Matrices of one operand as one, if they lie so: outputs are sums of their own in every
        kernel that keeps rows apart, that for one row included."""
        return None if self.wide is not None else self._weights.joined.get(first + ".weight")

    def _experts(self, blk: str, normed: Pointer) -> Pointer:
        mixture = Mixture(self._do, self._shape, self._glu, self._model.expert_rows)
        scores = self._product(blk + "ffn_gate_inp", normed)
        gate, up, down = (
            self._weights.experts[f"{blk}ffn_{part}_exps.weight"].tensor
            for part in ("gate", "up", "down")
        )
        return mixture.mix(scores, normed, (gate, up, down), self._count)

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

    def _queries_keys_values(self, layer: int, normed: Pointer) -> tuple[Pointer, ...]:
        """Queries and keys, normed and rotated, ``[rows, heads, head_width]``; values flat."""
        shape, blk, count = self._shape, f"blk.{layer}.", self._count
        heads, width = (shape.heads, shape.kv_heads), shape.head_width
        if self._family.fused:
            fused = self._product(blk + "attn_qkv", normed)
            row = (heads[0] + 2 * heads[1]) * width * 4
            split = [
                self._do("view_3d", fused, width, n, count, width * 4, row, at * width * 4)
                for n, at in zip(heads, (0, heads[0]), strict=True)
            ]
            at = (heads[0] + heads[1]) * width * 4
            v = self._do("cont", self._do("view_2d", fused, heads[1] * width, count, row, at))
        else:
            q, k, v = self._projected(blk, normed)
            split = [
                self._do("reshape_3d", flat, width, n, count)
                for flat, n in zip((q, k), heads, strict=True)
            ]
        if self._family.head_norms:
            names = (blk + "attn_q_norm", blk + "attn_k_norm")
            split = [self._norm(part, name) for part, name in zip(split, names, strict=True)]
        return self._rotated(split[0], layer), self._rotated(split[1], layer), v

    def _projected(self, blk: str, normed: Pointer) -> tuple[Pointer, ...]:
        """Queries, keys and values, flat. One row's are made together, or its queries and values,
        if their matrices lie one behind the other."""
        joined = self._together(blk + "attn_q")
        biased = blk + "attn_q.bias" in self._weights.vectors
        if joined is None or biased or not self._alone:
            q, k, v = (self._biased(f"{blk}attn_{part}", normed) for part in "qkv")
            return q, k, v
        made = self._do("mul_mat", joined.tensor, normed)
        queries = self._shape.heads * self._shape.head_width
        keys = self._shape.kv_heads * self._shape.head_width

        def part(size: int, first: int) -> Pointer:
            return self._do("view_2d", made, size, 1, size * 4, first * 4)

        with_keys = joined.outer == queries + 2 * keys
        k = part(keys, queries) if with_keys else self._biased(blk + "attn_k", normed)
        return part(queries, 0), k, part(keys, joined.outer - keys)

    def _biased(self, name: str, state: Pointer) -> Pointer:
        made = self._product(name, state)
        bias = self._weights.vectors.get(name + ".bias")
        return made if bias is None else self._do("add", made, bias)

    def _rotated(self, split: Pointer, layer: int) -> Pointer:
        rope = self._shape.rope(layer)
        factors = self._weights.factors.get(rope.factors)
        mode = 0 if rope.interleaved else 2
        angles = (rope.width, mode, 0, rope.base, 1.0, 0.0, rope.magnitude, 32.0, 1.0)
        return self._do("rope_ext", split, self.positions, factors, *angles)

    def _attention(self, local: int, layer: int, normed: Pointer) -> Pointer:
        """All rows' attention ``[rows, heads * head_width]``, before the output matrix."""
        q, k, v = self._queries_keys_values(layer, normed)
        self._expand(q)
        # Nothing consumes the writes, so they must enter the graph before the reads.
        self._write(local, k, v)
        mixed = []
        first = 0
        for part, inputs in zip(self._key.parts, self.parts, strict=True):
            mask = inputs.masks[self._shape.window(layer)]
            mixed.append(self._attended(local, q, (first, *part), inputs, mask))
            first += part[0]
        if self.mixed is None:
            return joined(self._do, mixed, 1)
        return self.mixed

    def _write(self, local: int, k: Pointer, v: Pointer) -> None:
        """Put new keys and values into the caches, those of all sessions by one operation each.

        ``homes`` says where: the number of a row of memory for every row and head.
        """
        for which, new in ((KEY, k), (VALUE, v)):
            at = (2 * local + which) * self._stored * 8
            homes = self._do("view_2d", self.homes, self._stored, 1, 0, at)
            rows = self._do("reshape_2d", new, self._shape.head_width, self._stored)
            self._expand(self._do("set_rows", self._anywhere, rows, homes))

    def _all_memory(self) -> Pointer:
        """All memory there is as rows of keys or values: wherever caches lie, they lie in it."""
        kv, width = self._model.policy.kv, self._shape.head_width
        row = kv_bytes(kv, width)
        count = sum(EVERYWHERE) // row - first_row(row)
        rows = self._do("new_tensor_2d", _KV[kv], width, count)
        self._call.ggml_backend_tensor_alloc(self._weights.anywhere, rows, first_row(row) * row)
        return rows

    def _attended(
        self,
        local: int,
        q: Pointer,
        part: tuple[int, int, int, int],
        inputs: PartInputs,
        mask: Pointer,
    ) -> Pointer:
        """One session's attention; ``part``: its first row, rows, slots in sight, and slots."""
        shape, (first, count, visible, room) = self._shape, part
        width = shape.head_width
        stride = shape.heads * width * 4
        mine = self._do("view_3d", q, width, shape.heads, count, width * 4, stride, first * stride)
        padding = self._model.mask_rows(self._key, count) - count
        if padding:
            mine = self._do("pad", mine, 0, 0, padding, 0)
        mine = self._do("permute", mine, 0, 2, 1, 3)
        seen = [self._in_sight(visible, room) for _ in (KEY, VALUE)]
        inputs.held += [(tensor, 2 * local + which) for which, tensor in enumerate(seen)]
        how = (shape.scale, 0.0, shape.attention_cap)
        out = self._do("flash_attn_ext", mine, *seen, mask, *how)
        if self.mixed is not None:
            self._expand(out)  # nothing reads it but by its place
            self.placed.append((out, first * stride))
            return out
        return self._do("view_2d", out, shape.heads * width, count, stride, 0)

    def _in_sight(self, visible: int, room: int) -> Pointer:
        """Keys or values of a session's first slots, ``[heads, slots, width]``, at no place yet."""
        kv, width, heads = self._model.policy.kv, self._shape.head_width, self._shape.kv_heads
        cache = self._do("new_tensor_3d", _KV[kv], width, room, heads)
        self._call.ggml_backend_tensor_alloc(self._weights.anywhere, cache, EVERYWHERE[0])
        row = kv_bytes(kv, width)
        return self._do("view_3d", cache, width, visible, heads, row, room * row, 0)
