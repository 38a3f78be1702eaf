"""What a client knows of nodes beside their records: distance, pace, links, reputation, spread."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hearthring.client.offers import RELAY_SECONDS, Offers, View
from hearthring.client.peers import BULK_BYTES, HALF_LIFE, PEERS, PeerTable
from hearthring.client.route import find_route
from hearthring.protocol.errors import NoRoute
from tests.offers import (
    LAYERS,
    OFFERS,
    expected_seconds,
    node,
    stages,
)


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
