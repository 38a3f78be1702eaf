"""The engine for quantised weights on a CPU: llama.cpp's kernels, without llama.cpp around them.

Weights are used where the model file is mapped, keys and values are fp16. ``ggml_layer.py`` says
why a row's bits depend on the weights and its own token path only.
"""

import hashlib
import secrets
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from gguf import GGMLQuantizationType

from hearthring.protocol.errors import BadOption, BadShape, LayersOutOfRange, ResidualOverflow
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.engine import Numerics, Segment, Window
from hearthring.shards.families import layer_parts
from hearthring.shards.fingerprint import fingerprint, fixed_shape
from hearthring.shards.ggml_check import FixedWeights
from hearthring.shards.ggml_graph import Graph
from hearthring.shards.ggml_kv import GgmlKv, ggml_kv
from hearthring.shards.ggml_layer import GraphKey, Model
from hearthring.shards.ggml_library import load_ggml
from hearthring.shards.ggml_passes import Run, only_run, passes
from hearthring.shards.ggml_policy import FAST, Q8_0, Policy
from hearthring.shards.ggml_products import ANY, Batching, try_batches, try_experts
from hearthring.shards.ggml_weights import Experts, LoadedWeights, Matrix, Sort, Weights
from hearthring.shards.ggml_wide import Blas, Widener
from hearthring.shards.self_check import check_layer
from hearthring.shards.shape import Shape
from hearthring.shards.tracing import Traced, empty_trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

VISIBLE_STEP = 128
GRAPHS = 24
GRAPH_BYTES = 64 << 20
_NO_TRACE = np.empty((0, 0, 0), np.uint8)


class GgmlEngine:
    """Layers ``[start, end)`` of a model of any family; see ``Engine`` for the contract.

    ``weights`` is an opened model file; its map must stay whole as long as the engine lives.
    ``progress(done, total)`` is called after each layer. ``check`` runs a few rows of the first
    layer against plain arithmetic. Raises ``LayersOutOfRange``, and ``EngineUnavailable`` when
    the library or a kernel isn't what it should be.
    """

    def __init__(
        self,
        weights: Weights,
        start: int,
        end: int,
        residual: Residual = Residual.BF16,
        threads: int = 1,
        progress: Callable[[int, int], None] | None = None,
        policy: Policy | None = None,
        *,
        check: bool = True,
    ) -> None:
        self.shape = weights.shape
        if not 0 <= start < end <= self.shape.layers:
            raise LayersOutOfRange(f"{start}:{end} of {self.shape.layers} layers", field="layers")
        self.start, self.end, self.width = start, end, self.shape.width
        self.residual, self.threads = residual, threads
        self.policy = policy = policy or Policy()
        if policy.kv == Q8_0 and self.shape.head_width % 32:
            raise BadOption(
                f"heads of {self.shape.head_width} channels can't be kept in q8_0",
                field="kv",
                mend="use f16",
            )
        self._ggml, self._source = load_ggml(), weights
        call = self._ggml.calls
        # One for each way of attention: to switch it would be a call more before each pass, in
        # which other threads take the interpreter's lock.
        self._backends = {ref: call.ggml_backend_cpu_init() for ref in (False, True)}
        for ref, backend in self._backends.items():
            weakref.finalize(self, call.ggml_backend_free, backend)
            call.ggml_backend_cpu_set_n_threads(backend, threads)
            call.ggml_backend_cpu_set_use_ref(backend, ref)
        loaded = LoadedWeights(self._ggml, weights, start, end, progress, policy.repack)
        self._model = Model(
            self._ggml,
            loaded,
            self.shape,
            residual,
            policy,
            self._batching((*loaded.matrices.values(), *loaded.joined.values())),
            self._expert_rows(loaded.experts.values()),
            self._wide(loaded.matrices.values()),
        )
        self._graphs: OrderedDict[GraphKey, Graph] = OrderedDict()
        if check:
            check_layer(
                weights,
                start,
                residual,
                lambda kind: GgmlEngine(
                    weights, start, start + 1, kind, threads, policy=policy, check=False
                ),
            )

    def _batching(self, matrices: Iterable[Matrix]) -> dict[Sort, Batching]:
        """What may be multiplied at once, by sort of matrix."""
        sorts = {matrix.sort: matrix for matrix in matrices}
        if not self.policy.exact:
            return dict.fromkeys(sorts, Batching(True, True))
        return {
            sort: try_batches(self._ggml, matrix, self.threads) for sort, matrix in sorts.items()
        }

    def _expert_rows(self, tensors: Iterable[Experts]) -> int:
        """Rows that one product of experts may have."""
        if not self.policy.exact:
            return ANY
        tried = (try_experts(self._ggml, experts, self.threads) for experts in tensors)
        return min(tried, default=ANY)

    def _wide(self, matrices: Iterable[Matrix]) -> tuple[Blas, Widener] | None:
        """What multiplies prompt rows in float32, if the policy has it."""
        if self.policy.prompt != FAST:
            return None
        matrices = list(matrices)
        blas = Blas({(matrix.outer, matrix.inner) for matrix in matrices})
        return blas, Widener(self._ggml, matrices, self.policy.prompt_memory, blas.turned)

    @cached_property
    def numerics(self) -> Numerics:
        """The class, measured when first asked for.

        Each combination of weight types and sort of layer that the model has is tried, whatever
        the window, so that all windows of a model are of one class.
        """
        shape = self.shape
        found = {(self._types(layer), shape.window(layer)): layer for layer in range(shape.layers)}
        digest = hashlib.sha256()
        for (mix, _), layer in sorted(found.items()):
            fixed = fixed_shape(shape.single(layer))
            digest.update(repr(mix).encode())
            digest.update(fingerprint(self._fixed(mix, fixed), fixed, self.residual).encode())
        kinds = {kind for mix, _ in found for kind in mix}
        names = sorted(GGMLQuantizationType(kind).name.lower() for kind in kinds)
        if not self.policy.exact:  # equal to no other's, not even its own of another day
            digest.update(secrets.token_bytes(32))
        wide = self._model.wide
        policy = self.policy.name(wide[0].name if wide else "")
        name = f"ggml-{self._ggml.build}/{'+'.join(names)}/{policy}/{self.residual.value}"
        return Numerics(name, self.residual, digest.hexdigest())

    def _types(self, layer: int) -> tuple[int, ...]:
        parts = layer_parts(self.shape)
        return tuple(self._source.kind(f"blk.{layer}.{part}") for part in parts)

    def _fixed(
        self, mix: tuple[int, ...], shape: Shape
    ) -> Callable[[Callable[[str], F32]], "GgmlEngine"]:
        kinds = dict(zip(layer_parts(shape), mix, strict=True))

        def make(load: Callable[[str], F32]) -> GgmlEngine:
            fixed = FixedWeights(self._ggml, load, shape, kinds)
            return GgmlEngine(
                fixed, 0, 1, self.residual, self.threads, policy=self.policy, check=False
            )

        return make

    def new_cache(self, slots: int, window: Window | None = None) -> GgmlKv:
        """A cache of ``slots`` rows, as ``Engine.new_cache``. Raises ``LayersOutOfRange``."""
        start, end = window or (self.start, self.end)
        if not self.start <= start < end <= self.end:
            raise LayersOutOfRange(f"{start}:{end} of {self.start}:{self.end}", field="window")
        heads, width = self.shape.kv_heads, self.shape.head_width
        return GgmlKv((start, end), slots, heads, width, self.policy.kv)

    def forward(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> tuple[F32, dict[int, F32]]:
        """Run all rows through the window, as ``Engine.forward``."""
        out, tapped, _ = self._run(segments, states, taps, traced=False)
        return out, tapped

    def forward_traced(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> Traced:
        """The same with a trace, as ``TracingEngine.forward_traced``."""
        return self._run(segments, states, taps, traced=True)

    def _run(
        self,
        segments: tuple[Segment, ...],
        states: F32,
        taps: frozenset[int],
        traced: bool,
    ) -> Traced:
        count = sum(len(segment.rows) for segment in segments)
        if states.shape != (count, self.width):
            raise BadShape(f"{states.shape} for {count} rows of {self.width}", field="states")
        window = self._check(segments)
        wanted = tuple(sorted(b for b in taps if window[0] < b <= window[1])) if taps else ()
        run = only_run(segments)
        if run is not None:
            graph = self._pass([run], window, wanted, traced, states)
            traces = _NO_TRACE if graph.trace is None else graph.trace.copy()
            tapped = {boundary: values.copy() for boundary, values in graph.taps.items()}
            made = Traced(graph.result.copy(), tapped, traces)
        else:
            made = self._in_passes(segments, window, wanted, traced, states)
        # An infinity never becomes finite again, so the last boundary shows those of all.
        if not np.isfinite(made.out).all():
            # Tiles of keys go over masked slots too, so nothing but numbers may stay in any.
            for segment in segments:
                ggml_kv(segment.cache).clear([row.slot for row in segment.rows])
            raise ResidualOverflow(
                f"a residual exceeds {self.residual.value}",
                field="residual",
                mend="use --residual bf16 or fp32",
            )
        return made

    def _in_passes(
        self,
        segments: tuple[Segment, ...],
        window: Window,
        wanted: tuple[int, ...],
        traced: bool,
        states: F32,
    ) -> Traced:
        """A batch of any rows."""
        out = np.empty_like(states)
        tapped = {boundary: np.empty_like(out) for boundary in wanted}
        trace = _NO_TRACE
        if traced:
            trace = empty_trace(window, len(states), self.width, self.residual)
        for runs in passes(segments):
            if len(runs) > 1:  # one graph serves the same sizes in any order
                runs.sort(key=_part)
            rows = _rows_of(runs)
            graph = self._pass(runs, window, wanted, traced, states[rows])
            out[rows] = graph.result
            for boundary, values in graph.taps.items():
                tapped[boundary][rows] = values
            if graph.trace is not None:
                trace[:, rows] = graph.trace
            for run in runs:
                run.done()
        return Traced(out, tapped, trace)

    def _pass(
        self,
        runs: list[Run],
        window: Window,
        wanted: tuple[int, ...],
        traced: bool,
        states: F32,
    ) -> Graph:
        """The graph that holds the results of these runs, until it is run again."""
        parts = tuple(map(_part, runs))
        graph = self._graph(GraphKey(window, runs[0].kind, parts, wanted, traced))
        graph.run(self._backends[graph.use_ref], runs, states)
        return graph

    def _check(self, segments: tuple[Segment, ...]) -> Window:
        """The window of all caches, once every row is known to fit its cache."""
        window = None
        for segment in segments:
            cache = ggml_kv(segment.cache)
            if window not in (None, cache.window):
                raise BadShape("caches of different windows in one batch", field="segments")
            window = cache.window
            for row in segment.rows:
                cache.check(row)
        return window or (self.start, self.end)

    def _graph(self, key: GraphKey) -> Graph:
        """A kept graph, or a new one in place of those longest unused."""
        graph = self._graphs.get(key)
        if graph is not None:
            self._graphs.move_to_end(key)
            return graph
        graph = Graph(self._model, key)
        self._graphs[key] = graph
        while len(self._graphs) > 1 and (
            len(self._graphs) > GRAPHS
            or sum(kept.bytes for kept in self._graphs.values()) > GRAPH_BYTES
        ):
            self._graphs.popitem(last=False)
        return graph


def _rows_of(runs: Sequence[Run]) -> "slice | NDArray[np.int64]":
    """Where a pass's rows lie in the batch: a slice, where they follow each other."""
    if all(run.at + len(run.rows) == after.at for run, after in pairwise(runs)):
        return slice(runs[0].at, runs[-1].at + len(runs[-1].rows))
    return np.concatenate([np.arange(run.at, run.at + len(run.rows)) for run in runs])


def _part(run: Run) -> tuple[int, int, int]:
    """Rows, slots in sight (rounded up, so that few graphs do) and slots that the cache has room
    for."""
    used = max(row.slot for row in run.rows) + 1
    room = run.cache.room
    return len(run.rows), min(room, -(-used // VISIBLE_STEP) * VISIBLE_STEP), room
