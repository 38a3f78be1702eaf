"""What nodes offer, for tests of routes; and the definition of what a route takes."""

import math
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from hearthring.client import route
from hearthring.client.offers import HOP_SECONDS
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
