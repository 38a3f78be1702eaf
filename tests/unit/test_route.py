"""The route is the cheapest there is, or the error says what is missing."""

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hearthring.client import replacement, route
from hearthring.client.offers import HOP_SECONDS, RELAY_SECONDS, Offers, View
from hearthring.client.peers import BULK_BYTES, HALF_LIFE, PEERS, PeerTable
from hearthring.client.route import find_cover, find_route, missing_windows
from hearthring.protocol.errors import NoRoute
from hearthring.protocol.records import NodeRecord

CLASS, OTHER_CLASS = "aa" * 32, "bb" * 32
LAYERS = 6


def node(name: str, *windows: tuple[int, int], seconds: float = 1.0, **fields: Any) -> NodeRecord:
    """A node that takes ``seconds`` for a row through all of its layers."""
    offer = NodeRecord(
        node=name,
        model_id="",
        windows=windows,
        addresses=(f"{name}:1", f"{name}:2"),
        expires=0.0,
        residual="fp16",
        numerics="torch",
        fingerprint=CLASS,
        row_seconds=seconds,
        free_rows=100,
    )
    return replace(offer, **fields)


def stages(found: tuple[route.Stage, ...]) -> list[tuple[str, int, int]]:
    return [(stage.node, stage.start, stage.end) for stage in found]


def expected_seconds(records: list[NodeRecord], found: list[tuple[str, int, int]]) -> float:
    """What a route is expected to take: the definition."""
    total = 0.0
    for name, start, end in found:
        record = next(r for r in records if r.node == name)
        batch = record.step_seconds + record.row_seconds * (1 + record.sessions)
        wait = batch - record.row_seconds if record.sessions else 0.0
        total += HOP_SECONDS + (batch + wait / 2) / len(record.layers) * (end - start)
    return total


def cheapest_by_trying(records: list[NodeRecord], layers: int, once: bool = True) -> float:
    """Every way to split the layers among nodes, at any boundary."""
    best = math.inf

    def extend(at: int, spent: float, used: frozenset[str]) -> None:
        nonlocal best
        if at == layers:
            best = min(best, spent)
            return
        for record in records:
            if once and record.node in used:
                continue
            for start, end in record.windows:
                for cut in range(at + 1, min(end, layers) + 1):
                    if start <= at:
                        cost = expected_seconds(records, [(record.node, at, cut)])
                        extend(cut, spent + cost, used | {record.node})

    extend(0, 0.0, frozenset())
    return best


WINDOWS = st.tuples(st.integers(0, LAYERS), st.integers(1, LAYERS + 1)).map(
    lambda pair: (pair[0], max(pair[0] + 1, pair[1]))
)
OFFERS = st.lists(
    st.tuples(
        st.lists(WINDOWS, min_size=1, max_size=2, unique=True),
        st.sampled_from([0.0, 0.01, 0.1, 1.0, 1.5, 4.0]),
        st.integers(0, 2),
    ),
    max_size=5,
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


def test_a_replacement_has_the_class_asked_for() -> None:
    records = [
        node("dead", (2, 4)),
        node("other", (2, 4), seconds=0.1, fingerprint=OTHER_CLASS),
        node("wide", (2, 4), seconds=0.1, residual="fp32"),
        node("first", (0, 3), seconds=2.0),
        node("second", (3, 6)),
    ]
    given = {"residual": "fp16", "fingerprint": CLASS, "avoid": frozenset({"dead"})}
    assert stages(find_cover(records, 2, 4, **given)) == [("first", 2, 3), ("second", 3, 4)]
    given["fingerprint"] = ""
    assert stages(find_cover(records, 2, 4, **given)) == [("other", 2, 4)]
    given["fingerprint"] = "cc" * 32
    with pytest.raises(NoRoute, match="don't match"):
        find_cover(records, 2, 4, **given)
    with pytest.raises(NoRoute, match=r"layers \[4, 6\) of 8"):
        find_cover(records[:4], 2, 6, whole=8)


# -- what the client knows beside the records ------------------------------------------------------


async def test_of_nodes_that_failed_whoever_was_lost_a_moment_ago_comes_last() -> None:
    records = [node("first", (0, 2)), node("lost", (2, 6)), node("worse", (2, 6))]

    async def look(again: bool) -> list[NodeRecord]:
        return records

    spares = replacement.Spares(look, LAYERS, 10)
    for name in ("lost", "worse", "worse", "worse"):
        spares.avoided.add(name)
    old = find_route(records[:2], LAYERS)
    assert stages(await spares.instead(old, frozenset(old[1:]), True, True))[1][0] == "worse"
    spares.avoided.convict("worse")
    assert stages(await spares.instead(old, frozenset(old[1:]), True, True))[1][0] == "lost"


def test_a_far_node_is_passed_over_and_its_distance_counts_for_every_visit() -> None:
    near, far = node("near", (0, 4), seconds=0.05), node("a far", (0, 4), seconds=0.04)
    peers = PeerTable()
    assert stages(find_route([near, far], 4, view=View(peers))) == [("a far", 0, 4)]
    peers.round_trip("near", 0.030)
    peers.round_trip("a far", 0.035)  # 5 ms more than the client's own link can account for
    assert stages(find_route([near, far], 4, view=View(peers))) == [("a far", 0, 4)]
    for _ in range(30):
        peers.round_trip("a far", 0.045)
    assert stages(find_route([near, far], 4, view=View(peers))) == [("near", 0, 4)]


def test_waiting_only_adds_so_the_least_round_trip_counts() -> None:
    peers = PeerTable()
    peers.round_trip("b", 0.01)
    for seconds in (0.5, 0.02, 0.5):
        peers.round_trip("a", seconds)
    assert dict(peers)["a"].round_trip == pytest.approx(0.021)
    assert peers.nearest() == 0.01
    assert PeerTable().nearest() == 0.0


def test_a_measured_pace_counts_and_fades() -> None:
    now = [100.0]
    peers = PeerTable(lambda: now[0])
    said, real = node("liar", (0, 4), seconds=0.01), node("true", (0, 4), seconds=0.1)
    peers.ran("liar", 4, 1.0)
    assert stages(find_route([said, real], 4, view=View(peers))) == [("true", 0, 4)]
    now[0] += 20 * HALF_LIFE
    assert stages(find_route([said, real], 4, view=View(peers))) == [("liar", 0, 4)]


def test_slow_links_count_by_the_bytes_of_a_row() -> None:
    slow = node("slow", (0, 4), seconds=0.09, link_up=10_000.0, link_down=1e6)
    fast = node("wired", (0, 4), seconds=0.1, link_up=1e6, link_down=1e6)
    assert stages(find_route([slow, fast], 4)) == [("slow", 0, 4)]
    assert stages(find_route([slow, fast], 4, view=View(row_bytes=1000))) == [("wired", 0, 4)]
    peers = PeerTable()
    plain = replace(slow, link_up=0.0, link_down=0.0)
    peers.moved("slow", BULK_BYTES - 1, 10.0)  # too little to tell a speed
    assert stages(find_route([plain, fast], 4, view=View(peers, row_bytes=1000))) == [
        ("slow", 0, 4)
    ]
    peers.moved("slow", BULK_BYTES, 10.0)
    assert stages(find_route([plain, fast], 4, view=View(peers, row_bytes=1000))) == [
        ("wired", 0, 4)
    ]


def test_a_relay_costs_and_is_used_only_where_it_can_be() -> None:
    relayed = node("a", (0, 4), addresses=(), relay_addresses=("r:1",), seconds=0.1)
    direct = node("b", (0, 4), seconds=0.1 + RELAY_SECONDS / 2)
    with pytest.raises(NoRoute):
        find_route([relayed], 4)
    assert find_route([relayed], 4, view=View(relays=True))[0].address == "r:1"
    assert stages(find_route([relayed, direct], 4, view=View(relays=True))) == [("b", 0, 4)]
    slower = replace(direct, row_seconds=0.1 + RELAY_SECONDS * 2)
    assert stages(find_route([relayed, slower], 4, view=View(relays=True))) == [("a", 0, 4)]


def test_reputation_slows_a_node_or_rules_it_out() -> None:
    records = [node("a", (0, 4)), node("b", (0, 4), seconds=1.5)]
    weights = {"a": 0.5}
    view = View(weight=lambda name: weights.get(name, 1.0))
    assert stages(find_route(records, 4, view=view)) == [("b", 0, 4)]
    weights = {"a": 0.9}
    assert stages(find_route(records, 4, view=view)) == [("a", 0, 4)]
    weights = {"a": 0.0, "b": 0.0}
    with pytest.raises(NoRoute):
        find_route(records, 4, view=view)


def test_many_clients_spread_among_equals_and_only_among_them() -> None:
    records = [node(f"n{i}", (0, 4), seconds=1 + i / 1000) for i in range(8)]
    records.append(node("worse", (0, 4), seconds=1.3))
    offers = Offers(records)
    chosen = [
        stages(find_route(offers, 4, view=View(spread=0.1, seed=seed)))[0][0] for seed in range(400)
    ]
    counts = {name: chosen.count(name) for name in set(chosen)}
    assert len(counts) == 8
    assert "worse" not in counts
    assert max(counts.values()) < 400 / 8 * 2
    again = View(spread=0.1, seed=7)
    assert find_route(offers, 4, view=again) == find_route(records[::-1], 4, view=again)


@settings(deadline=None, max_examples=100)
@given(OFFERS, st.integers(0, 1 << 32))
def test_spreading_costs_at_most_what_was_allowed(offers: Any, seed: int) -> None:
    records = [node(f"n{i}", *windows, seconds=1 + s) for i, (windows, s, _) in enumerate(offers)]
    try:
        best = expected_seconds(records, stages(find_route(records, LAYERS)))
    except NoRoute:
        return
    spread = stages(find_route(records, LAYERS, view=View(spread=0.2, seed=seed)))
    assert expected_seconds(records, spread) <= best * 1.2 + 1e-9


def test_the_table_of_peers_forgets_the_one_unheard_for_longest() -> None:
    peers = PeerTable()
    for n in range(PEERS + 10):
        peers.round_trip(f"n{n}", 0.01)
        peers.round_trip("n0", 0.01)
    names = [name for name, _ in peers]
    assert len(peers) == len(names) == PEERS
    assert "n0" in names
    assert "n1" not in names


def test_classes_without_end_are_no_matter() -> None:
    """Fingerprints are free to make up; the cheapest real route is found all the same."""
    records = [node(f"x{i}", (0, 3), seconds=9.0, fingerprint=f"{i:064x}") for i in range(500)]
    assert stages(find_route([*records, node("a", (0, 4))], 4)) == [("a", 0, 4)]
