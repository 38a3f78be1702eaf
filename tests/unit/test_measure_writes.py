"""Timing an engine reads no keys or values that were never written: they may be anything."""

import numpy as np

from hearthring.node.measure import measure
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.engine import KvCache, Numerics, Segment, Slots, Window


class Cache:
    def __init__(self, slots: int, window: Window) -> None:
        self.capacity, self.window, self.written = slots, window, set[int]()

    def move(self, source: Slots, target: Slots) -> None:
        raise AssertionError("nothing to move")


class StrictEngine:
    start, end, width, threads = 0, 2, 8, 1
    numerics = Numerics("strict", Residual.FP32, "ab" * 32)

    def new_cache(self, slots: int, window: Window | None = None) -> KvCache:
        return Cache(slots, window or (self.start, self.end))

    def forward(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> tuple[F32, dict[int, F32]]:
        assert len(states) == sum(len(segment.rows) for segment in segments)
        assert np.isfinite(states).all()
        for segment in segments:
            cache = segment.cache
            assert isinstance(cache, Cache)
            for row in segment.rows:
                cache.written.add(row.slot)
                assert set(row.path.tolist()) <= cache.written
        return states, {}


def test_every_row_has_ancestors_that_were_written() -> None:
    table = measure(StrictEngine(), clock=iter(n * 0.01 for n in range(100_000)).__next__)
    assert len(table.prompt) > 1
    assert len(table.generated) > 1
