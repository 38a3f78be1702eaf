"""Several windows of a model that lie apart, served as one engine: a ring comes round to each."""

from collections.abc import Sequence

from hearthring.protocol.errors import EngineUnavailable
from hearthring.protocol.tensors import F32
from hearthring.shards.engine import Engine, KvCache, Numerics, Segment, Window
from hearthring.shards.tracing import Traced, TracingEngine, trace_by_taps

_INEXACT = frozenset(("batched", "inexact"))
"""Words in the names of classes that equal nobody's."""


class SeveralWindows:
    """``Engine`` and ``TracingEngine`` over engines of windows that don't overlap.

    A cache, and so a batch, is of one window or of a part of one; without any it is the first's.
    ``start`` and ``end`` are the outermost layers. Not thread-safe, as its engines aren't. Raises
    ``EngineUnavailable`` unless all are of one numerics class, or of one name that is inexact: then
    the first one's stands for them, which equals nobody's either.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = tuple(sorted(engines, key=lambda engine: engine.start))
        self.start, self.end = self.engines[0].start, self.engines[-1].end
        self.width, self.threads = self.engines[0].width, self.engines[0].threads
        classes = {engine.numerics for engine in self.engines}
        names = sorted({numerics.name for numerics in classes})
        if len(classes) > 1 and (len(names) > 1 or _INEXACT.isdisjoint(names[0].split("/"))):
            raise EngineUnavailable(
                f"the windows would be of different numerics classes: {', '.join(names)}",
                field="layers",
            )
        self._numerics = self.engines[0].numerics

    @property
    def windows(self) -> tuple[Window, ...]:
        """The layers, in their order."""
        return tuple((engine.start, engine.end) for engine in self.engines)

    @property
    def numerics(self) -> Numerics:
        """The class of all windows."""
        return self._numerics

    def new_cache(self, slots: int, window: Window | None = None) -> KvCache:
        """A cache for one of the windows, or a part of it."""
        return self._of(window or self.windows[0]).new_cache(slots, window)

    def forward(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> tuple[F32, dict[int, F32]]:
        """As ``Engine.forward``."""
        engine = self._of(segments[0].cache.window)
        return engine.forward(segments, states, self._within(engine, taps))

    def forward_traced(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> Traced:
        """As ``TracingEngine.forward_traced``."""
        engine = self._of(segments[0].cache.window)
        within = self._within(engine, taps)
        if isinstance(engine, TracingEngine):
            return engine.forward_traced(segments, states, within)
        return trace_by_taps(engine, segments, states, within)

    def _of(self, window: Window) -> Engine:
        """Whose window it is, or a part of whose."""
        return next(e for e in self.engines if e.start <= window[0] and window[1] <= e.end)

    @staticmethod
    def _within(engine: Engine, taps: frozenset[int]) -> frozenset[int]:
        return frozenset(tap for tap in taps if engine.start < tap <= engine.end)
