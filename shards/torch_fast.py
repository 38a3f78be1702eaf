"""The torch engine for devices: CUDA, MPS or the CPU, in float16, bfloat16 or float32.

It computes what ``torch_engine.py`` computes, in whatever order is fastest for the batch. So the
bits of a row depend on what it runs beside: its numerics class is its own, equal to none, not even
that of the same engine started again, and never EXACT.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from hearthring.protocol.errors import (
    BadShape,
    EngineUnavailable,
    LayersOutOfRange,
    ResidualOverflow,
)
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.engine import Numerics, Segment, Window
from hearthring.shards.shape import Shape
from hearthring.shards.torch_fast_kv import FastKv, Sight, sights
from hearthring.shards.torch_fast_layer import (
    Angles,
    FastLayer,
    Raw,
    Source,
    angles,
    attended,
    normed,
    rotated,
)
from hearthring.shards.torch_linear import Load, round_residual
from hearthring.shards.tracing import Traced, trace_by_taps

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Place:
    """Where and in what type to compute."""

    device: torch.device
    compute: str


def choose_place(device: str = "auto", compute: str | None = None) -> Place:
    """The device asked for, ``auto`` being the first of CUDA, MPS and CPU that is there.

    ``compute`` None is fp16 on a device and fp32 on the CPU. Raises ``EngineUnavailable``.
    """
    if device == "auto":
        there = (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
        device = next((name for name, here in there if here), "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise EngineUnavailable(
            f"torch finds no device {device!r} here",
            field="device",
            mend="use --device auto, or a torch that was built for it",
        ) from None
    compute = compute or ("fp32" if chosen.type == "cpu" else "fp16")
    if compute not in DTYPES:
        raise EngineUnavailable(f"{compute!r} isn't one of {', '.join(DTYPES)}", field="compute")
    return Place(chosen, compute)


class FastTorchEngine:
    """Layers ``[start, end)`` of a model of any family; see ``Engine`` for the contract.

    ``load`` gives each tensor by its GGUF name as float32; ``raw``, if given, as it is in the file,
    for 4-bit weights that torch multiplies without widening them. ``threads`` is torch's setting
    for the whole process. Raises ``LayersOutOfRange``.
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
        *,
        place: Place | None = None,
        raw: Raw | None = None,
    ) -> None:
        if not 0 <= start < end <= shape.layers:
            raise LayersOutOfRange(f"{start}:{end} of {shape.layers} layers", field="layers")
        self.place = place or choose_place()
        self.start, self.end, self.width = start, end, shape.width
        self.shape, self.residual, self.threads = shape, residual, threads
        torch.set_num_threads(threads)
        self._like = torch.empty(0, dtype=DTYPES[self.place.compute], device=self.place.device)
        source = Source(load, raw, self._like.device, self._like.dtype)
        self._layers: list[FastLayer] = []
        for index in range(start, end):
            self._layers.append(FastLayer.read(source, shape, index))
            if progress is not None:
                progress(index + 1 - start, end - start)
        name = f"torch-{torch.__version__}/{self.place.device}/{self.place.compute}/batched"
        salted = hashlib.sha256(name.encode() + secrets.token_bytes(32)).hexdigest()
        self.numerics = Numerics(f"{name}/{residual.value}", residual, salted)

    def new_cache(self, slots: int, window: Window | None = None) -> FastKv:
        """A cache of ``slots`` rows, as ``Engine.new_cache``; on a device all its memory is taken
        at once. Raises ``LayersOutOfRange``."""
        start, end = window or (self.start, self.end)
        if not self.start <= start < end <= self.end:
            raise LayersOutOfRange(f"{start}:{end} of {self.start}:{self.end}", field="window")
        return FastKv((start, end), slots, (self.shape.kv_heads, self.shape.head_width), self._like)

    def forward_traced(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> Traced:
        """``forward`` with a trace, as ``TracingEngine.forward_traced``."""
        return trace_by_taps(self, segments, states, taps)

    @torch.inference_mode()
    def forward(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> tuple[F32, dict[int, F32]]:
        """Run all rows through the window, as ``Engine.forward``."""
        rows = [row for segment in segments for row in segment.rows]
        if states.shape != (len(rows), self.width):
            raise BadShape(f"{states.shape} for {len(rows)} rows of {self.width}", field="states")
        windows = {segment.cache.window for segment in segments} or {(self.start, self.end)}
        if len(windows) > 1:
            raise BadShape("caches of different windows in one batch", field="segments")
        ((start, end),) = windows
        device, shape = self._like.device, self.shape
        if device.type == "cpu" and torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        layers = self._layers[start - self.start : end - self.start]
        slides = frozenset(layer.window for layer in layers)
        seen = sights(segments, slides, shape.heads // shape.kv_heads, device)
        positions = np.array([row.position for row in rows], np.int64)
        turns = {rope: angles(rope, positions, device) for rope in {x.rope for x in layers}}
        hidden = torch.from_numpy(np.ascontiguousarray(states, np.float32)).to(device)
        tapped: dict[int, F32] = {}
        for local, layer in enumerate(layers):
            hidden = self._layer(layer, local, hidden, seen, turns[layer.rope])
            if start + local + 1 in taps:
                tapped[start + local + 1] = _array(hidden)
        out = _array(hidden)
        # An infinity never becomes finite again, so the last boundary shows those of all.
        if not np.isfinite(out).all():
            for sight in seen:
                sight.cache.clear(sight.slots)
            raise ResidualOverflow(
                f"a residual exceeds {self.residual.value}, or a value {self.place.compute}",
                field="residual",
                mend="use --residual bf16 or fp32, and --compute bf16 or fp32",
            )
        return out, tapped

    def _layer(
        self,
        layer: FastLayer,
        local: int,
        hidden: torch.Tensor,
        seen: tuple[Sight, ...],
        turn: Angles,
    ) -> torch.Tensor:
        shape, dtype = self.shape, self._like.dtype

        def norm(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return normed(states, weight, shape.norm_epsilon)

        qkv = layer.qkv(norm(hidden, layer.attention_norm).to(dtype))
        if layer.bias is not None:
            qkv = qkv.float() + layer.bias
        heads = qkv.view(len(hidden), -1, shape.head_width)
        query, key, value = torch.split(heads, [shape.heads, shape.kv_heads, shape.kv_heads], 1)
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = norm(query, layer.query_norm), norm(key, layer.key_norm)
        query, key = (rotated(part, layer.rope, turn).to(dtype) for part in (query, key))
        value = value.to(dtype)
        # All K and V of the layer are written before any row attends: an ancestor may stand
        # anywhere in the batch.
        for sight in seen:
            rows = slice(sight.first, sight.last)
            for store, new in ((sight.cache.k, key), (sight.cache.v, value)):
                store[local].index_copy_(1, sight.slots, new[rows].transpose(0, 1))
        mixed = query.new_empty(len(hidden), shape.heads * shape.head_width)
        for sight in seen:
            rows, at = slice(sight.first, sight.last), slice(sight.used)
            k, v = sight.cache.k[local][:, at], sight.cache.v[local][:, at]
            mask = sight.masks[layer.window]
            mixed[rows] = attended(query[rows], k, v, mask, shape.scale, shape.attention_cap)
        added = layer.output(mixed).float()
        if layer.post_attention is not None:
            added = norm(added, layer.post_attention)
        hidden = hidden + added
        added = layer.ffn(norm(hidden, layer.ffn_norm).to(dtype)).float()
        if layer.post_ffn is not None:
            added = norm(added, layer.post_ffn)
        return round_residual(hidden + added, self.residual)


def _array(states: torch.Tensor) -> F32:
    array: F32 = states.cpu().numpy()
    return array
