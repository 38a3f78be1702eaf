"""Tables of step times: measured in bounded time, kept, checked, fitted and handed on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthring.node.measure import BUDGET, PATIENCE, measure, measured
from hearthring.protocol.errors import Malformed
from hearthring.protocol.messages import StepTime
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.engine import Engine, Kind, KvCache, Numerics, Segment, Window
from hearthring.shards.threads import candidates, choose_threads
from hearthring.shards.timings import BATCHES, Timings, curve_of, fit_line

Cost = Callable[[Kind, int], float]


class Cache:
    def __init__(self, window: Window, capacity: int) -> None:
        self.window, self.capacity = window, capacity


class PretendEngine:
    """Its steps take what ``cost`` says per layer, on a clock of its own."""

    def __init__(self, layers: int, cost: Cost) -> None:
        self.start, self.end, self.width, self.threads = 3, 3 + layers, 8, 1
        self.cost, self.now, self.steps = cost, 0.0, list[tuple[Kind, int, int]]()

    numerics = Numerics("pretend", Residual.FP32, "00")

    def clock(self) -> float:
        return self.now

    def new_cache(self, slots: int, window: Window | None = None) -> KvCache:
        return Cache(window or (self.start, self.end), slots)

    def forward(
        self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
    ) -> tuple[F32, dict[int, F32]]:
        (segment,) = segments
        kind, count = segment.rows[0].kind, len(segment.rows)
        assert states.shape == (count, self.width)
        assert all(row.path[-1] == row.slot < segment.cache.capacity for row in segment.rows)
        assert {slot for row in segment.rows for slot in row.path} == {r.slot for r in segment.rows}
        start, end = segment.cache.window
        self.steps.append((kind, count, end - start))
        self.now += (end - start) * self.cost(kind, count)
        return states, {}


def two_kinds(kind: Kind, rows: int) -> float:
    return 1e-4 + rows * (1e-5 if kind is Kind.PROMPT else 3e-5)


def test_both_kinds_are_timed_for_the_whole_window() -> None:
    engine = PretendEngine(30, two_kinds)
    table = measure(engine, engine.clock)
    for kind in Kind:
        assert tuple(rows for rows, _ in table.curve(kind)) == BATCHES
        for rows in (*BATCHES, 3, 100, 2000):
            assert table.seconds(kind, rows) == pytest.approx(30 * two_kinds(kind, rows))
    assert engine.now < 2 * len(BATCHES) * 3 * BUDGET


def test_steps_that_would_take_too_long_are_measured_on_fewer_layers_or_left_out() -> None:
    engine = PretendEngine(8, lambda _, rows: 0.02 * rows)
    table = measure(engine, engine.clock)
    assert [rows for rows, _ in table.generated] == [r for r in BATCHES if 0.02 * r <= PATIENCE]
    assert max(layers for _, rows, layers in engine.steps if rows >= 8) == 1
    assert table.seconds(Kind.GENERATED, 512) == pytest.approx(8 * 0.02 * 512)


def test_what_only_a_first_step_takes_isnt_counted() -> None:
    first = set[tuple[Kind, int]]()

    def cost(kind: Kind, rows: int) -> float:
        extra = 0.0 if (kind, rows) in first else 0.01
        first.add((kind, rows))
        return extra + two_kinds(kind, rows)

    engine = PretendEngine(15, cost)
    table = measure(engine, engine.clock)
    for rows in (64, 128, 512):
        assert table.seconds(Kind.PROMPT, rows) == pytest.approx(15 * two_kinds(Kind.PROMPT, rows))


def test_layers_that_ran_a_moment_ago_count_as_those_of_a_whole_step() -> None:
    """Caches hold the weights of few layers: a step through the same ones again would be quicker
    than any step through the whole window."""
    held = list[int]()

    class Cached(PretendEngine):
        def forward(
            self, segments: tuple[Segment, ...], states: F32, taps: frozenset[int] = frozenset()
        ) -> tuple[F32, dict[int, F32]]:
            for layer in range(*segments[0].cache.window):
                self.now += 0.0 if layer in held else 0.004
                held.append(layer)
                del held[:-4]
            return super().forward(segments, states, taps)

    engine = Cached(15, two_kinds)
    table = measure(engine, engine.clock)
    for rows in BATCHES:
        whole = 15 * (0.004 + two_kinds(Kind.PROMPT, rows))
        assert table.seconds(Kind.PROMPT, rows) == pytest.approx(whole)


def test_a_table_is_kept_and_used_until_a_step_no_longer_takes_its_time(tmp_path: Path) -> None:
    first = PretendEngine(4, two_kinds)
    table = measured(first, tmp_path, {"processor": "a"}, first.clock)
    again = PretendEngine(4, two_kinds)
    assert measured(again, tmp_path, {"processor": "a"}, again.clock) == table
    assert {rows for _, rows, _ in again.steps} == {4}
    slower = PretendEngine(4, lambda kind, rows: 2 * two_kinds(kind, rows))
    changed = measured(slower, tmp_path, {"processor": "a"}, slower.clock)
    assert changed.seconds(Kind.PROMPT, 16) == pytest.approx(2 * table.seconds(Kind.PROMPT, 16))
    measured(first, tmp_path, {"processor": "b"}, first.clock)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "text", ["", "[]", '{"prompt": [[1, 0]]}', '{"prompt": 1, "generated": 2}']
)
def test_a_damaged_table_is_measured_again(tmp_path: Path, text: str) -> None:
    engine = PretendEngine(4, two_kinds)
    table = measured(engine, tmp_path, {}, engine.clock)
    (path,) = tmp_path.iterdir()
    path.write_text(text)
    assert measured(engine, tmp_path, {}, engine.clock).seconds(Kind.PROMPT, 2) == pytest.approx(
        table.seconds(Kind.PROMPT, 2)
    )
    assert json.loads(path.read_text())["about"]["window"] == [3, 7]


def test_a_folder_that_cannot_be_used_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    engine = PretendEngine(4, two_kinds)
    assert measured(engine, tmp_path / "file" / "in", {}, engine.clock).prompt


@given(
    st.floats(0, 0.1),
    st.floats(1e-6, 0.1),
    st.lists(st.integers(1, 600), min_size=2, max_size=9, unique=True),
)
def test_a_line_is_found_again(step: float, row: float, rows: list[int]) -> None:
    fit = fit_line(tuple((m, step + m * row) for m in sorted(rows)))
    for m in rows:
        assert fit.seconds(m) == pytest.approx(step + m * row, rel=1e-6)


@given(st.lists(st.floats(1e-6, 10), min_size=2, max_size=7))
def test_a_fit_is_never_negative(seconds: list[float]) -> None:
    fit = fit_line(tuple(zip(BATCHES, seconds, strict=False)))
    assert fit.step >= 0
    assert fit.row > 0


def test_what_a_status_says_is_the_same_table() -> None:
    engine = PretendEngine(2, two_kinds)
    table = measure(engine, engine.clock)
    assert Timings.of_points(table.points()) == table
    with pytest.raises(Malformed):
        Timings.of_points(table.points()[: len(BATCHES)])
    with pytest.raises(Malformed):
        Timings.of_points((*table.points(), StepTime(1, 1, 0.5)))


@pytest.mark.parametrize(
    "points",
    [
        None,
        [1, 2],
        [(1, 1.0)],
        [(2, 1.0), (1, 1.0)],
        [(1, 1.0), (2, float("nan"))],
        [(1, 0), (2, 1)],
    ],
)
def test_other_points_are_refused(points: object) -> None:
    with pytest.raises(Malformed) as caught:
        curve_of(points)
    assert caught.value.field == "timings"


def test_threads_are_those_with_the_fastest_row() -> None:
    def chosen(cores: int, cost: Callable[[int], float]) -> int:
        clocks = list[PretendEngine]()

        def make(threads: int) -> Engine:
            clocks.append(PretendEngine(1, lambda *_: cost(threads)))
            return clocks[-1]

        return choose_threads(make, cores, lambda: sum(engine.now for engine in clocks))

    assert candidates(1) == (1,)
    assert candidates(6) == (1, 2, 4, 6)
    assert chosen(6, lambda threads: 0.01 / threads) == 6
    assert chosen(8, lambda threads: 0.01 / threads + 0.001 * threads) == 4
    assert chosen(4, lambda threads: 0.01 - threads * 1e-4) == 1
    assert chosen(2, lambda threads: 0.02 * threads) == 1
