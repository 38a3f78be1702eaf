"""What does a node that dies, freezes, falls silent or leaves cost?

Run: python -m bench.failover [--kills 100] [--stops 30] [--partitions 30] [--drains 20]
                              [--model tiny|smollm2] [--seed 1] [--json FILE]

Four stages and two spares, each a real node process, and generations of 64 tokens. Faults strike
uniformly over prefill, decode and the hand-over to a replacement (a second node while the first is
being replaced). Printed for each kind: wrong tokens, lost requests, how long until the client
noticed, until the ring was whole, and the longest wait for a token. Partitions need the emulated
home (Linux, root), in which every node has a machine of its own; elsewhere they are left out by
name. The exit code is 0 if no token was wrong and no request lost.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.homelab import Home, Machine, why_not
from hearthring import AsyncClient
from hearthring.shards.store import ModelStore
from tests.chaos import campaign as faults
from tests.chaos.campaign import Campaign
from tests.chaos.swarm import CLIENT, PLACES, chaos_swarm, machine
from tests.reference import PROMPTS
from tests.tiny import write_tiny_gguf

TINY_LAYERS = 8
Part = Callable[[Campaign], Awaitable[None]]


async def prompts_for(client: AsyncClient, tiny: bool) -> list[list[int]]:
    """Prompts long enough to take several chunks' time."""
    if tiny:
        draw = np.random.default_rng(7)
        return [[int(n) for n in draw.integers(3, 200, 70)] for _ in range(8)]
    answers = [await client.generate(text * 3, max_tokens=1) for text in PROMPTS.values()]
    return [answer.prompt_ids for answer in answers]


async def run(model: str, part: Part, home: Home | None = None) -> dict[str, Any]:
    """One kind of fault in a swarm of its own."""
    with tempfile.TemporaryDirectory(prefix="hearthring-chaos-") as scratch:
        folder, place = Path(scratch), model
        if model == "tiny":
            place = str(write_tiny_gguf(folder / "tiny.gguf", layers=TINY_LAYERS))
        layers = ModelStore().find(place).manifest.shape.layers
        where: dict[str, Any] = {}
        if home is not None:
            where["prefix"] = lambda n: home.prefix(machine(n))
            where["address"] = lambda n: home.address(machine(n))
        async with chaos_swarm(folder, place, layers, **where) as swarm:
            join = swarm.invitations
            async with AsyncClient(join, place, threads=1, reputation=swarm.weight) as client:
                campaign = Campaign(swarm, client, await prompts_for(client, model == "tiny"))
                await campaign.undisturbed()
                await part(campaign)
                return campaign.report()


def show(name: str, report: dict[str, Any]) -> bool:
    """Print one kind's figures; whether nothing was wrong or lost."""
    print(f"{name}:")
    for key, value in report.items():
        print(f"  {key:<12} {value}")
    sys.stdout.flush()
    return not report["wrong"] and not report["lost"]


def main() -> int:
    """All kinds that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stops", type=int, default=30)
    parser.add_argument("--partitions", type=int, default=30)
    parser.add_argument("--drains", type=int, default=20)
    parser.add_argument("--most", type=float, default=20.0, help="seconds of a stop or partition")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; model {options.model}; seed {options.seed}"
    )
    n, seed, most, model = options, options.seed, options.most, options.model
    reports: dict[str, dict[str, Any]] = {}
    well = True
    for name, number, part in (
        ("kills", n.kills, lambda c: faults.kills(c, n.kills, seed)),
        ("stops", n.stops, lambda c: faults.stops(c, n.stops, seed, most)),
        ("drains", n.drains, lambda c: faults.drains(c, n.drains)),
    ):
        if number:
            reports[name] = asyncio.run(run(model, part))
            well &= show(name, reports[name])
    reason = why_not() if n.partitions else ""
    if reason:
        print(f"partitions: left out: {reason}")
    elif n.partitions:
        machines = [Machine(machine(place), delay=1.0, jitter=0.5) for place in PLACES]
        with contextlib.ExitStack() as stack:
            home = stack.enter_context(Home([*machines, Machine(CLIENT)], seed))
            stack.enter_context(home.inside(CLIENT))

            def cut(c: Campaign) -> Awaitable[None]:
                return faults.partitions(c, home, n.partitions, seed, most)

            reports["partitions"] = asyncio.run(run(model, cut, home))
        well &= show("partitions", reports["partitions"])
    if options.json:
        options.json.write_text(json.dumps(reports, indent=1) + "\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
