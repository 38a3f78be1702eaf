"""The route is the cheapest there is, or the error says what is missing."""

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hearthring.client import route
from hearthring.client.offers import View
from hearthring.client.route import find_cover, find_route, missing_windows
from hearthring.protocol.errors import NoRoute
from tests.offers import (
    CLASS,
    LAYERS,
    OFFERS,
    OTHER_CLASS,
    cheapest_by_trying,
    expected_seconds,
    node,
    stages,
)


@settings(deadline=None, max_examples=300)
@given(OFFERS, st.booleans())
def test_no_route_is_cheaper_than_the_one_found(offers: Any, once: bool) -> None:
    records = [
        node(f"n{i}", *windows, seconds=seconds, sessions=sessions)
        for i, (windows, seconds, sessions) in enumerate(offers)
    ]
    best = cheapest_by_trying(records, LAYERS, once)
    try:
        found = stages(find_route(records, LAYERS, view=View(once=once)))
    except NoRoute as error:
        found, missing = [], error.missing
    if not found:
        assert best == math.inf
        assert missing == tuple(missing_windows(records, LAYERS))
        return
    assert [start for _, start, _ in found] == [0, *(end for _, _, end in found[:-1])]
    assert found[-1][2] == LAYERS
    assert len({name for name, _, _ in found}) == len(found) or not once
    for name, start, end in found:
        windows = next(r.windows for r in records if r.node == name)
        assert any(a <= start < end <= b for a, b in windows)
    assert expected_seconds(records, found) == pytest.approx(best, abs=1e-9)


def test_the_best_way_to_a_boundary_may_use_up_a_node_needed_beyond_it() -> None:
    records = [
        node("both", (0, 1), (2, 3), seconds=1.0),
        node("middle", (1, 2)),
        node("dear", (0, 1), seconds=9.0),
    ]
    assert stages(find_route(records, 3)) == [("dear", 0, 1), ("middle", 1, 2), ("both", 2, 3)]
    with pytest.raises(NoRoute, match="needed twice"):
        find_route(records[:2], 3)


def test_equals_are_settled_the_same_in_any_order() -> None:
    records = [node("a", (0, 4)), node("b", (0, 4)), node("c", (0, 2)), node("d", (2, 4))]
    for order in permutations(records):
        assert stages(find_route(order, 4)) == [("a", 0, 4)]


def test_fewer_hops_win_among_equals() -> None:
    records = [node("a", (0, 2)), node("b", (2, 4)), node("z", (0, 4), seconds=2.0)]
    assert stages(find_route(records, 4)) == [("z", 0, 4)]


def test_a_window_may_be_used_in_part() -> None:
    records = [node("a", (0, 4)), node("b", (2, 6))]
    found = stages(find_route(records, 6))
    assert found in ([("a", 0, 2), ("b", 2, 6)], [("a", 0, 4), ("b", 4, 6)])
    slow = [replace(records[0], row_seconds=9.0), records[1]]
    assert stages(find_route(slow, 6)) == [("a", 0, 2), ("b", 2, 6)]
    assert stages(find_route([node("whole", (0, 9))], 6)) == [("whole", 0, 6)]


def test_a_busy_node_is_passed_over_for_an_idle_one() -> None:
    busy, idle = node("a", (0, 4), sessions=3), node("b", (0, 4), seconds=2.0)
    assert stages(find_route([busy, idle], 4)) == [("b", 0, 4)]
    assert stages(find_route([replace(busy, sessions=0), idle], 4)) == [("a", 0, 4)]


def test_a_stage_is_told_all_that_its_record_says() -> None:
    found = find_route([node("a", (0, 9))], 4)
    assert found == (route.Stage("a", "a:1", 0, 4, "fp16", "torch", CLASS),)


def test_full_avoided_and_unreachable_nodes_are_left_out() -> None:
    good = node("good", (0, 4), seconds=9.0)
    full = node("full", (0, 4), free_rows=9)
    lost = node("lost", (0, 4), addresses=())
    bad = node("bad", (0, 4))
    found = find_route([good, full, lost, bad], 4, rows=10, avoid=frozenset({"bad"}))
    assert stages(found) == [("good", 0, 4)]
    assert stages(find_route([good, full], 4, rows=9)) == [("full", 0, 4)]
    with pytest.raises(NoRoute, match="with room for this session") as caught:
        find_route([full], 4, rows=10)
    assert caught.value.missing == ((0, 4),)


@pytest.mark.parametrize(
    "fields",
    [
        {"residual": "int4"},
        {"residual": ""},
        {"residual": "FP16"},
        {"fingerprint": ""},
        {"fingerprint": "xy" * 32},
        {"fingerprint": "AA" * 32},
        {"fingerprint": CLASS + "\n"},
    ],
)
def test_an_offer_this_version_can_not_read_is_left_out(fields: dict[str, str]) -> None:
    strange = node("strange", (0, 4), **fields)
    with pytest.raises(NoRoute):
        find_route([strange], 4)
    good = node("good", (0, 4), seconds=9.0)
    assert stages(find_route([strange, good], 4)) == [("good", 0, 4)]


def test_a_route_has_one_residual_type_and_one_class() -> None:
    half = [node("a", (0, 2)), node("b", (2, 4))]
    for changes in ({"residual": "fp32"}, {"fingerprint": OTHER_CLASS}):
        other = replace(half[1], **changes)  # type: ignore[arg-type]
        with pytest.raises(NoRoute, match="don't match") as caught:
            find_route([half[0], other], 4)
        assert caught.value.missing == ()
        assert len(find_route([*half, replace(other, node="c")], 4)) == 2


def test_the_cheapest_class_is_chosen() -> None:
    slow = [node("a", (0, 2), seconds=5.0), node("b", (2, 4), seconds=5.0)]
    fast = [node("c", (0, 4), fingerprint=OTHER_CLASS)]
    assert stages(find_route([*slow, *fast], 4)) == [("c", 0, 4)]


def test_classes_mix_only_where_it_is_allowed_and_residual_types_never() -> None:
    first, second = node("a", (0, 2)), node("b", (2, 4), fingerprint=OTHER_CLASS)
    assert len(find_route([first, second], 4, one_class=False)) == 2
    with pytest.raises(NoRoute):
        find_route([first, second], 4)
    with pytest.raises(NoRoute):
        find_route([first, replace(second, residual="fp32")], 4, one_class=False)


def test_missing_windows_are_listed_in_order() -> None:
    records = [node("a", (1, 2), (4, 6))]
    assert missing_windows(records, 8) == [(0, 1), (2, 4), (6, 8)]
    assert missing_windows([], 3) == [(0, 3)]
    assert missing_windows([node("a", (0, 9))], 3) == []
    with pytest.raises(NoRoute, match=r"\[0, 1\), \[2, 4\), \[6, 8\) of 8") as caught:
        find_route(records, 8)
    assert caught.value.missing == ((0, 1), (2, 4), (6, 8))
    assert caught.value.field == "route"


def test_a_large_swarm_is_no_matter() -> None:
    """Not a time: the number of partial routes that the search may look at."""
    records = [
        node(f"n{i}", (start := i * 7 % 80, min(80, start + 5 + i % 11)), seconds=1 + i % 3)
        for i in range(120)
    ]
    found = stages(find_route(records, 80))
    assert found[0][1] == 0
    assert found[-1][2] == 80


def test_a_piped_ring_visits_a_node_twice_where_that_is_allowed() -> None:
    records = [
        node("both", (0, 1), (2, 3)),
        node("middle", (1, 2)),
        node("dear", (0, 1), seconds=9),
    ]
    found = stages(find_route(records, 3, view=View(once=False)))
    assert found == [("both", 0, 1), ("middle", 1, 2), ("both", 2, 3)]


@settings(deadline=None, max_examples=100)
@given(OFFERS, st.integers(0, LAYERS - 1), st.integers(1, LAYERS))
def test_a_cover_is_a_route_of_a_smaller_model(offers: Any, start: int, length: int) -> None:
    end = min(LAYERS, start + length)
    records = [node(f"n{i}", *windows, seconds=1 + s) for i, (windows, s, _) in enumerate(offers)]
    inside = [
        replace(
            record,
            windows=tuple((max(a, start) - start, min(b, end) - start) for a, b in windows),
            row_seconds=record.row_seconds
            * len(layers_of(windows, start, end))
            / len(record.layers),
        )
        for record in records
        if (windows := tuple((a, b) for a, b in record.windows if a < end and b > start))
    ]
    try:
        found = stages(find_cover(records, start, end))
    except NoRoute as error:
        with pytest.raises(NoRoute) as caught:
            find_route(inside, end - start)
        found, missing = [], error.missing
        expected = tuple((a + start, b + start) for a, b in caught.value.missing)
    if not found:
        assert missing == expected
        return
    moved = [(name, a - start, b - start) for name, a, b in found]
    assert expected_seconds(inside, moved) == pytest.approx(
        cheapest_by_trying(inside, end - start), abs=1e-9
    )


def layers_of(windows: Any, start: int, end: int) -> set[int]:
    return {layer for a, b in windows for layer in range(max(a, start), min(b, end))}


def test_classes_without_end_are_no_matter() -> None:
    """Fingerprints are free to make up; the cheapest real route is found all the same."""
    records = [node(f"x{i}", (0, 3), seconds=9.0, fingerprint=f"{i:064x}") for i in range(500)]
    assert stages(find_route([*records, node("a", (0, 4))], 4)) == [("a", 0, 4)]
