"""What do ways to speculate bring in a ring, before it stands? Simulated time, no model.

One table: for each hop latency and acceptance, plain decoding, and as factors of it the best chain,
tree, and steps that follow each other, with the sizes that were best; then what the client's cost
model would have chosen and got. With --clients, tokens a second of all together and of the slowest.

Run: python -m bench.simulate_ring [--stages 4] [--step-ms 18] [--row-ms 2] [--hops-ms 0,2,10,50]
     [--acceptance .5,.7,.85] [--draft-ms 5] [--row-bytes 1152 --uplink-mbit 20] [--processors 2]
     [--clients 1,10,100 --batch 64] [--tokens 1200] [--json FILE]
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.simulator import PLAIN, Policy, simulate
from hearthring.client.cost import CHUNKS, Hop, Plan, Ring, best, plans
from hearthring.shards.timings import Fit

SIBLINGS = (0.35, 0.15)
"""How often a tree's second and third candidates are right, of the times that the first isn't."""
CHAINS = tuple(Policy(rows) for rows in CHUNKS if rows > 1)
TREES = tuple(Policy(rows) for rows in (3, 5, 8, 14, 24))
FOLLOWING = tuple(
    Policy(rows, flights, least=0.02) for rows in (1, 2, 3, 4, 8) for flights in (2, 4, 8, 16)
)
BRANCHING = tuple(
    Policy(rows, 16, least=least) for rows, least in ((4, 0.05), (8, 0.05), (4, 0.15), (8, 0.15))
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the table: the best of each way, in tokens a second, and its policy."""

    hop_ms: float
    acceptance: float
    plain: float
    chain: tuple[float, str]
    tree: tuple[float, str]
    following: tuple[float, str]
    branching: tuple[float, str]
    model: tuple[float, str]
    """What the cost model chose, as simulated."""


def described(ring: argparse.Namespace, hop_ms: float) -> Ring:
    """The ring of the options; ``--stages`` equal ones or the list of ``--step-ms``."""
    steps = [float(step) / 1e3 for step in ring.step_ms.split(",")]
    rows = [float(row) / 1e3 for row in ring.row_ms.split(",")]
    count = max(ring.stages, len(steps), len(rows))
    fits = [Fit(steps[i % len(steps)], rows[i % len(rows)]) for i in range(count)]
    sending = ring.row_bytes * 8 / (ring.uplink_mbit * 1e6) if ring.row_bytes else 0.0
    hops = (Hop(hop_ms / 1e3, sending),) * (count + 1)
    ends = Fit(ring.ends_ms / 1e3, 0.0)
    return Ring(tuple(fits), hops, ends, ring.draft_ms / 1e3, ring.processors)


def best_of(
    ring: Ring, acceptance: Sequence[float], policies: Sequence[Policy], tokens: int
) -> tuple[float, str]:
    """The highest rate among some policies, and what it was."""
    found = max(
        ((simulate(ring, acceptance, policy, tokens).rate, policy) for policy in policies),
        key=lambda pair: pair[0],
    )
    return found[0], named(found[1])


def named(policy: Policy) -> str:
    """``8`` rows a step, or ``4 × 2`` for four steps of two; ``>.05`` where guesses end."""
    size = f"{policy.flights}×{policy.rows}" if policy.flights > 1 else str(policy.rows)
    return f"{size} >{policy.least}" if policy.least > 0.02 else size


def policy_of(plan: Plan) -> Policy:
    """The plan as the simulated client follows it."""
    return Policy(plan.rows, plan.flights, least=0.02 if plan.flights > 1 else 0.0)


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """The table, row by row."""
    for hop_ms in numbers(options.hops_ms):
        ring = described(options, hop_ms)
        for acceptance in numbers(options.acceptance):
            ranks = (acceptance, *(share * (1 - acceptance) for share in SIBLINGS))
            chosen = policy_of(best(plans(ring, [acceptance])))
            yield Cell(
                hop_ms,
                acceptance,
                simulate(ring, [acceptance], PLAIN, 100).rate,
                best_of(ring, [acceptance], CHAINS, options.tokens),
                best_of(ring, ranks, TREES, options.tokens),
                best_of(ring, [acceptance], FOLLOWING, options.tokens),
                best_of(ring, ranks, BRANCHING, options.tokens),
                best_of(ring, [acceptance], [chosen], options.tokens),
            )


def crowd(options: argparse.Namespace) -> Iterator[tuple[int, str, float, float, float]]:
    """Clients, policy, tokens a second together and of the slowest, share that a stage works."""
    hop_ms, acceptance = numbers(options.hops_ms)[0], numbers(options.acceptance)[0]
    ring = described(options, hop_ms)
    for clients in (int(count) for count in numbers(options.clients)):
        tokens = max(8, math.ceil(options.tokens / clients))
        for policy in (PLAIN, Policy(4), Policy(2, 8, least=0.02)):
            found = simulate(
                ring, [acceptance], policy, tokens, clients=clients, batch=options.batch
            )
            name = "plain" if policy == PLAIN else named(policy)
            yield clients, name, found.rate, found.slowest, found.busy


def numbers(listed: str) -> list[float]:
    """Of a list with commas."""
    return [float(number) for number in listed.split(",")]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--step-ms", default="18", help="of each stage; a list for unequal ones")
    parser.add_argument("--row-ms", default="2")
    parser.add_argument("--hops-ms", default="0,2,10,50")
    parser.add_argument("--acceptance", default=".5,.7,.85")
    parser.add_argument("--draft-ms", type=float, default=5.0, help="for each guess")
    parser.add_argument("--ends-ms", type=float, default=0.0, help="the client's, for each step")
    parser.add_argument("--row-bytes", type=int, default=0)
    parser.add_argument("--uplink-mbit", type=float, default=20.0)
    parser.add_argument("--processors", type=int, default=0, help="that all stages share; 0: own")
    parser.add_argument("--clients", default="", help="counts, for a table of crowds instead")
    parser.add_argument("--batch", type=int, default=64, help="rows that a stage joins")
    parser.add_argument("--tokens", type=int, default=1200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table = show_crowd(options) if options.clients else show_cells(options)
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options), "cells": table}, default=str))


def show_crowd(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table of crowds, a line at a time."""
    heads, table = ("clients", "steps", "tok/s", "slowest", "busy"), list[dict[str, Any]]()
    print(f"{heads[0]:>7} {heads[1]:>8} {heads[2]:>8} {heads[3]:>8} {heads[4]:>6}")
    for line in crowd(options):
        table.append(dict(zip(heads, line, strict=True)))
        clients, name, rate, slowest, busy = line
        print(f"{clients:7} {name:>8} {rate:8.2f} {slowest:8.3f} {busy:6.0%}", flush=True)
    return table


def show_cells(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the table of one client, a line at a time."""
    heads = ("chain", "tree", "following", "branching", "by the model")
    print(f"{'hop ms':>6} {'accept':>6} {'plain':>6}", *(f"{head:>15}" for head in heads))
    table = []
    for cell in cells(options):
        table.append(asdict(cell))
        ways = (cell.chain, cell.tree, cell.following, cell.branching, cell.model)
        factors = [f"{rate / cell.plain:5.2f} ({size})" for rate, size in ways]
        print(
            f"{cell.hop_ms:6g} {cell.acceptance:6g} {cell.plain:6.2f}",
            *(f"{factor:>15}" for factor in factors),
            flush=True,
        )
    return table


if __name__ == "__main__":
    main()
