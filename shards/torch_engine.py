"""The reference engine: layers of every family in fp32 on dequantised weights, through torch.

The bits of a row depend on the weights and on the row's own token path with its kinds, by
construction (``torch_linear.py`` says how): not on the number of threads either.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch

from hearthring.protocol.errors import (
    BadShape,
    LayersOutOfRange,
    ResidualOverflow,
)
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.engine import EngineRow, Kind, Numerics, Segment, Window
from hearthring.shards.fingerprint import fingerprints
from hearthring.shards.shape import Rope, Shape
from hearthring.shards.torch_attention import attend_block, attend_row, block_mask, first_key
from hearthring.shards.torch_kv import PathRead, TorchKv, plan_reads
from hearthring.shards.torch_layer import Layer
from hearthring.shards.torch_linear import (
    BLOCK,
    Load,
    head_norm_block,
    head_norm_rows,
    padded_rows,
    rms_norm,
    rms_norm_block,
    round_residual,
)
from hearthring.shards.torch_rope import Angles, Rotation
from hearthring.shards.torch_threads import Team, one_thread
from hearthring.shards.tracing import Traced, trace_by_taps

Turns = dict[Rope, Angles]


@dataclass(slots=True)
class _Pass:
    """Prompt rows of one chain within one aligned block: rows ``low .. high`` of the block."""

    cache: TorchKv
    first: int  # index of its first row in the batch
    low: int
    high: int
    block: int  # its positions begin at 64 * block
    path: torch.Tensor  # slots of positions 0 .. the last row
    turns: Turns
    states: torch.Tensor
    query: torch.Tensor = field(init=False)  # of the layer it is in

    @property
    def slots(self) -> torch.Tensor:
        return self.path[self.low - self.high :]


@dataclass(slots=True)
class _Generated:
    """All generated rows of a batch."""

    indexes: torch.Tensor  # in the batch
    caches: list[tuple[TorchKv, int]]  # where each row's K and V go
    reads: list[PathRead]
    scratch: tuple[torch.Tensor, torch.Tensor]
    turns: Turns
    states: torch.Tensor


class TorchEngine:
    """Layers ``[start, end)`` of a model; see ``Engine`` for the contract.

    ``load`` gives each tensor by its GGUF name as float32. ``progress(done, total)`` is called
    after each layer is loaded. ``threads`` share blocks, products and KV heads; torch's own
    setting, which every ``forward`` renews, is one. Raises ``LayersOutOfRange``.
    """

    def __init__(
        self,
        load: Load,
        shape: Shape,
        start: int,
        end: int,
        residual: Residual = Residual.FP32,
        threads: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if not 0 <= start < end <= shape.layers:
            raise LayersOutOfRange(f"{start}:{end} of {shape.layers} layers", field="layers")
        self.start, self.end, self.width = start, end, shape.width
        self.shape, self.residual, self.threads = shape, residual, threads
        self._team = Team(threads)
        self._rotations = {rope: Rotation(rope) for rope in map(shape.rope, range(start, end))}
        self._layers: list[Layer] = []
        for index in range(start, end):
            self._layers.append(Layer.load(load, shape, index, self._team))
            if progress is not None:
                progress(index + 1 - start, end - start)

    @cached_property
    def numerics(self) -> Numerics:
        """The class, measured when first asked for (about a second at width 576)."""
        name = f"torch-{torch.__version__}/fp32/mv+gemm{BLOCK}-cut/{self.residual.value}"
        residual, threads = self.residual, self.threads

        def make(load: Load, shape: Shape) -> TorchEngine:
            return TorchEngine(load, shape, 0, 1, residual, threads)

        return Numerics(name, residual, fingerprints(make, self.shape, residual))

    def new_cache(self, slots: int, window: Window | None = None) -> TorchKv:
        """A cache of ``slots`` rows, as ``Engine.new_cache``. Raises ``LayersOutOfRange``."""
        start, end = window or (self.start, self.end)
        if not self.start <= start < end <= self.end:
            raise LayersOutOfRange(f"{start}:{end} of {self.start}:{self.end}", field="window")
        return TorchKv((start, end), slots, self.shape.kv_heads * self.shape.head_width)

    @torch.inference_mode()
    def forward(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> tuple[F32, dict[int, F32]]:
        """Run all rows through the window, as ``Engine.forward``."""
        rows = [(_torch_kv(segment.cache), row) for segment in segments for row in segment.rows]
        if states.shape != (len(rows), self.width):
            raise BadShape(f"{states.shape} for {len(rows)} rows of {self.width}", field="states")
        for cache, row in rows:
            cache.check(row)
        one_thread()
        entering = torch.from_numpy(np.ascontiguousarray(states, np.float32))
        passes = self._passes(segments, entering)
        generated = self._generated(rows, entering)
        tapped: dict[int, F32] = {}
        start, end = rows[0][0].window if rows else (self.start, self.end)
        if any(cache.window != (start, end) for cache, _ in rows):
            raise BadShape("caches of different windows in one batch", field="segments")
        for local, layer in enumerate(self._layers[start - self.start : end - self.start]):
            # All K and V of the layer are written before any row attends: an ancestor may stand
            # anywhere in the batch.
            self._team.share(partial(self._enter_block, layer, local, passes), len(passes))
            row_queries = self._enter_rows(layer, local, generated) if generated else None
            self._team.share(partial(self._leave_block, layer, local, passes), len(passes))
            if generated and row_queries is not None:
                self._leave_rows(layer, local, generated, row_queries)
            boundary = start + local + 1
            if boundary in taps:
                tapped[boundary] = self._collect(len(rows), passes, generated)
        out = self._collect(len(rows), passes, generated)
        # An infinity never becomes finite again, so the last boundary shows those of all.
        if not np.isfinite(out).all():
            raise ResidualOverflow(
                f"a residual exceeds {self.residual.value}",
                field="residual",
                mend="use --residual bf16 or fp32",
            )
        return out, tapped

    def forward_traced(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> Traced:
        """The same with a trace, as ``TracingEngine.forward_traced``."""
        return trace_by_taps(self, segments, states, taps)

    def _passes(self, segments: tuple[Segment, ...], states: torch.Tensor) -> list[_Pass]:
        passes: list[_Pass] = []
        index = 0
        for segment in segments:
            run: list[EngineRow] = []
            for row in segment.rows:
                if run and not (row.kind is Kind.PROMPT and _follows(run[-1], row)):
                    passes.append(self._pass(segment, run, index - len(run), states))
                    run = []
                if row.kind is Kind.PROMPT:
                    run.append(row)
                index += 1
            if run:
                passes.append(self._pass(segment, run, index - len(run), states))
        return passes

    def _pass(
        self, segment: Segment, run: list[EngineRow], first: int, states: torch.Tensor
    ) -> _Pass:
        low, block = run[0].position % BLOCK, run[0].position // BLOCK
        padded = torch.zeros(BLOCK, self.width)
        padded[low : low + len(run)] = states[first : first + len(run)]
        return _Pass(
            _torch_kv(segment.cache),
            first,
            low,
            low + len(run),
            block,
            torch.from_numpy(run[-1].path),
            self._turns(list(range(block * BLOCK, (block + 1) * BLOCK))),
            padded,
        )

    def _generated(
        self, rows: list[tuple[TorchKv, EngineRow]], states: torch.Tensor
    ) -> _Generated | None:
        indexes = [i for i, (_, row) in enumerate(rows) if row.kind is Kind.GENERATED]
        if not indexes:
            return None
        chosen = [rows[index] for index in indexes]
        width = self.shape.kv_heads * self.shape.head_width
        reads = plan_reads(chosen, width)
        longest = max((read.length for read in reads if read.slots is not None), default=0)
        index = torch.tensor(indexes)
        return _Generated(
            index,
            [(cache, row.slot) for cache, row in chosen],
            reads,
            (torch.empty(longest, width), torch.empty(longest, width)),
            self._turns([row.position for _, row in chosen]),
            states.index_select(0, index),
        )

    def _turns(self, positions: list[int]) -> Turns:
        return {rope: rotation.angles(positions) for rope, rotation in self._rotations.items()}

    def _heads(self, qkv: torch.Tensor) -> torch.Tensor:
        """Queries and keys within ``qkv``: ``[n, heads + kv_heads, head_width]``."""
        keys = (self.shape.heads + self.shape.kv_heads) * self.shape.head_width
        return qkv[:, :keys].view(len(qkv), -1, self.shape.head_width)

    def _split(self, layer: Layer, qkv: torch.Tensor, turns: Turns) -> tuple[torch.Tensor, ...]:
        """Rotated and scaled queries ``[n, kv_heads, group, head_width]``, keys, values."""
        shape = self.shape
        queries = shape.heads * shape.head_width
        keys = queries + shape.kv_heads * shape.head_width
        self._rotations[layer.rope].rotate(self._heads(qkv), turns[layer.rope])
        query = qkv[:, :queries].mul_(shape.scale)
        grouped = query.view(len(qkv), shape.kv_heads, -1, shape.head_width)
        return grouped, qkv[:, queries:keys], qkv[:, keys:]

    def _enter_block(self, layer: Layer, local: int, passes: list[_Pass], index: int) -> None:
        item = passes[index]
        normed = rms_norm_block(item.states, layer.attention_norm, self.shape.norm_epsilon)
        qkv = layer.qkv.block(normed)
        if layer.head_norm is not None:
            head_norm_block(self._heads(qkv), layer.head_norm, self.shape.norm_epsilon)
        item.query, k, v = self._split(layer, qkv, item.turns)
        item.cache.k[local].index_copy_(0, item.slots, k[item.low : item.high])
        item.cache.v[local].index_copy_(0, item.slots, v[item.low : item.high])

    def _leave_block(self, layer: Layer, local: int, passes: list[_Pass], index: int) -> None:
        item = passes[index]
        epsilon, first = self.shape.norm_epsilon, first_key(item.block, layer.window)
        before = item.block * BLOCK - first
        path, seen = item.path[first:], []
        for source in (item.cache.k[local], item.cache.v[local]):
            buffer = torch.empty(before + BLOCK, source.shape[1])
            torch.index_select(source, 0, path, out=buffer[: len(path)])
            buffer[len(path) :].zero_()
            seen.append(buffer)
        mask = block_mask(before, layer.window)
        mixed = attend_block(
            self._team, item.query, seen[0], seen[1], mask, self.shape.attention_cap
        )
        made = layer.output.block(mixed)
        if layer.attention_post_norm is not None:
            made = rms_norm_block(made, layer.attention_post_norm, epsilon)
        states = item.states.add_(made)
        made = layer.ffn.block(rms_norm_block(states, layer.ffn_norm, epsilon))
        if layer.ffn_post_norm is not None:
            made = rms_norm_block(made, layer.ffn_post_norm, epsilon)
        item.states = round_residual(states.add_(made), self.residual)

    def _enter_rows(self, layer: Layer, local: int, rows: _Generated) -> torch.Tensor:
        normed = rms_norm(rows.states, layer.attention_norm, self.shape.norm_epsilon)
        qkv = layer.qkv.rows(normed)
        if layer.head_norm is not None:
            head_norm_rows(self._heads(qkv), layer.head_norm, self.shape.norm_epsilon)
        query, k, v = self._split(layer, qkv, rows.turns)
        for (cache, slot), key, value in zip(rows.caches, k.unbind(), v.unbind(), strict=True):
            cache.k[local, slot] = key
            cache.v[local, slot] = value
        return query

    def _leave_rows(self, layer: Layer, local: int, rows: _Generated, query: torch.Tensor) -> None:
        epsilon = self.shape.norm_epsilon
        mixed = padded_rows(query.shape[0], self.shape.heads * self.shape.head_width)
        outs = mixed.view(query.shape).unbind()
        for read, one, out in zip(rows.reads, query.unbind(), outs, strict=True):
            k, v = read.read(local, rows.scratch, layer.window)
            attend_row(one, k, v, out, self.shape.attention_cap)
        made = layer.output.rows(mixed)
        if layer.attention_post_norm is not None:
            made = rms_norm(made, layer.attention_post_norm, epsilon)
        states = made.add_(rows.states)
        made = layer.ffn.rows(rms_norm(states, layer.ffn_norm, epsilon))
        if layer.ffn_post_norm is not None:
            made = rms_norm(made, layer.ffn_post_norm, epsilon)
        rows.states = round_residual(states.add_(made), self.residual)

    def _collect(self, count: int, passes: list[_Pass], rows: _Generated | None) -> F32:
        out = torch.empty(count, self.width)
        for item in passes:
            size = item.high - item.low
            out[item.first : item.first + size] = item.states[item.low : item.high]
        if rows is not None:
            out.index_copy_(0, rows.indexes, rows.states)
        array: F32 = out.numpy()
        return array


def _follows(parent: EngineRow, row: EngineRow) -> bool:
    """Whether ``row`` is the child of ``parent`` in the same aligned block."""
    return (
        row.position == parent.position + 1
        and row.position % BLOCK != 0
        and int(row.path[-2]) == parent.slot
    )


def _torch_kv(cache: object) -> TorchKv:
    if not isinstance(cache, TorchKv):
        raise TypeError(f"a cache of another engine: {type(cache).__name__}")
    return cache
