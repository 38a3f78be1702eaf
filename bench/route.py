"""How long does choosing a route take in a large swarm?

Run: python -m bench.route [--nodes 10000] [--layers 80] [--classes 4] [--signatures 2000]

A simulated directory: windows of 2 to 12 layers, three classes of device, load, links and a table
of measured peers. Printed are the median and the worst of 30 choices, from bare records and from
records that were made into arrays before (a client does that once for each look into the
directory), of a replacement for one stage, and what checking signatures costs beside it.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from bench.nodes import MACHINE
from hearthring.client.offers import Offers, View
from hearthring.client.peers import PeerTable
from hearthring.client.route import find_cover, find_route
from hearthring.protocol import records
from hearthring.protocol.identity import Identity
from hearthring.protocol.records import NodeRecord

ROUNDS = 30
ROW_BYTES = 16_384
DEVICES = (0.0002, 0.0006, 0.003)
"""Seconds a layer takes: a good graphics card, a desktop, a small board."""


def directory(nodes: int, layers: int, classes: int, draw: np.random.Generator) -> list[NodeRecord]:
    """Records as a large open swarm might hold."""
    found = []
    for n in range(nodes):
        length = int(draw.integers(2, 13))
        start = int(draw.integers(0, layers))
        pace = float(draw.choice(DEVICES)) * float(draw.uniform(0.7, 1.5))
        up = float(draw.uniform(1e6, 2e7))
        found.append(
            NodeRecord(
                node=f"12D3KooW{draw.integers(1 << 62):020x}{n:08x}",
                model_id="ab" * 32,
                windows=((start, min(layers, start + length)),),
                addresses=("192.0.2.1:4870",),
                expires=0.0,
                residual="fp16",
                numerics="ggml",
                fingerprint=f"{int(draw.integers(classes)):064x}",
                step_seconds=pace * length / 4,
                row_seconds=pace * length,
                free_rows=int(draw.integers(0, 20_000)),
                sessions=int(draw.integers(0, 4)),
                link_up=up,
                link_down=up * 2.5,
            )
        )
    return found


def measured(offers: list[NodeRecord], draw: np.random.Generator) -> PeerTable:
    """A client that has talked to some of them."""
    peers = PeerTable()
    for n in draw.integers(0, len(offers), 500):
        peers.round_trip(offers[n].node, float(draw.uniform(0.005, 0.08)))
        peers.ran(offers[n].node, 8, float(draw.uniform(0.002, 0.03)))
    return peers


def show(name: str, work: Callable[[], object]) -> None:
    """Time one thing and print it."""
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begun) * 1e3)
    print(f"{name:<44}{statistics.median(taken):8.1f} ms, worst {max(taken):.1f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--signatures", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw = np.random.default_rng(options.seed)
    swarm = directory(options.nodes, options.layers, options.classes, draw)
    view = View(measured(swarm, draw), row_bytes=ROW_BYTES, spread=0.05, seed=3)
    piped = View(view.peers, row_bytes=ROW_BYTES, spread=0.05, seed=3, once=False)
    print(f"{MACHINE}; seed {options.seed}")
    print(f"{options.nodes} nodes, {options.layers} layers, {options.classes} numerics classes")
    offers, layers = Offers(swarm), options.layers
    route = find_route(offers, layers, rows=500, view=view)
    print(f"a route of {len(route)} stages")
    dead = route[len(route) // 2]

    def replacement() -> object:
        kind = {"residual": dead.residual, "fingerprint": dead.fingerprint}
        gone = frozenset({dead.node})
        return find_cover(offers, dead.start, dead.end, rows=500, avoid=gone, view=view, **kind)

    show("records into arrays", lambda: Offers(swarm))
    show("route, records already arrays", lambda: find_route(offers, layers, rows=500, view=view))
    show("route, a node may be visited twice", lambda: find_route(offers, layers, view=piped))
    show("route, from bare records", lambda: find_route(swarm, layers, rows=500, view=view))
    show("replacement of one stage", replacement)
    signed = []
    for record in swarm[: options.signatures]:
        who = Identity.new()
        signed.append(records.sign(NodeRecord(who.node_id, *_rest(record)), who))
    begun = time.perf_counter()
    for data in signed:
        records.read(data)
    each = (time.perf_counter() - begun) / max(1, len(signed))
    print(
        f"checking a record's signature: {each * 1e6:.0f} µs, so {each * options.nodes:.1f} s for"
    )
    print("all of them, once for each new record: see client/seeds.py")


def _rest(record: NodeRecord) -> tuple[object, ...]:
    return record.model_id, record.windows, record.addresses, 1e9


if __name__ == "__main__":
    main()
