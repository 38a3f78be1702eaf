"""An engine in the hands of a test: what happens before a batch runs, and what becomes of it."""

from dataclasses import dataclass

from hearthring.protocol.tensors import F32
from hearthring.shards.engine import Engine, KvCache, Numerics, Segment, Window
from hearthring.shards.tracing import Traced, TracingEngine


@dataclass
class WrappedEngine:
    """An honest engine whose batches pass through ``before`` and ``after``.

    Traces are the honest engine's, whatever becomes of its output.
    """

    honest: Engine

    @property
    def start(self) -> int:
        return self.honest.start

    @property
    def end(self) -> int:
        return self.honest.end

    @property
    def width(self) -> int:
        return self.honest.width

    @property
    def threads(self) -> int:
        return self.honest.threads

    @property
    def numerics(self) -> Numerics:
        return self.honest.numerics

    def new_cache(self, slots: int, window: Window | None = None) -> KvCache:
        return self.honest.new_cache(slots, window)

    def before(self, segments: tuple[Segment, ...], states: F32) -> tuple[Segment, ...]:
        """What runs in the place of these segments. May raise, or wait."""
        return segments

    def after(self, segments: tuple[Segment, ...], output: F32) -> F32:
        """What is said to have come out."""
        return output

    def forward(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> tuple[F32, dict[int, F32]]:
        output, tapped = self.honest.forward(self.before(segments, states), states, taps)
        return self.after(segments, output), tapped

    def forward_traced(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> Traced:
        assert isinstance(self.honest, TracingEngine)
        traced = self.honest.forward_traced(self.before(segments, states), states, taps)
        return traced._replace(out=self.after(segments, traced.out))
