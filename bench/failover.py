"""What does a node that dies, freezes, falls silent or leaves cost?

Run: python -m bench.failover [--kills 100] [--stops 30] [--partitions 30] [--drains 20]
                              [--model tiny|smollm2] [--seed 1] [--json FILE] | --short

Four stages and two spares, each a real node process, and generations of 64 tokens. Faults strike
uniformly over prefill, decode and the hand-over to a replacement (a second node while the first is
being replaced). Printed for each kind: wrong tokens, lost requests, how long until the client
noticed, until the ring was whole, and the longest wait for a token. Partitions need the emulated
home (Linux, root), in which every node has a machine of its own; elsewhere they are left out by
name. ``--short`` is a handful of each in one swarm of two stages
and two spares. The exit code is 0 if no token was wrong and no request lost.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.homelab import Home, Machine, why_not
from hearthring import AsyncClient
from hearthring.shards.store import ModelStore
from tests.chaos import campaign as faults
from tests.chaos.campaign import Campaign
from tests.chaos.swarm import CLIENT, SPARES, STAGES, chaos_swarm, machine
from tests.reference import PROMPTS
from tests.tiny import write_tiny_gguf

TINY_LAYERS = 8
Part = Callable[[Campaign], Awaitable[None]]


async def prompts_for(client: AsyncClient, tiny: bool, number: int) -> list[list[int]]:
    """Prompts long enough to take several chunks' time."""
    if tiny:
        draw = np.random.default_rng(7)
        return [[int(n) for n in draw.integers(3, 200, 70)] for _ in range(number)]
    answers = [await client.generate(text * 3, max_tokens=1) for text in PROMPTS.values()]
    return [answer.prompt_ids for answer in answers]


async def run(
    model: str,
    part: Part,
    home: Home | None = None,
    stages: int = STAGES,
    spares: int = SPARES,
    prompts: int = 8,
) -> dict[str, Any]:
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
        async with chaos_swarm(
            folder, place, layers, stages=stages, spares=spares, **where
        ) as swarm:
            join = swarm.invitations
            async with AsyncClient(join, place, threads=1, reputation=swarm.weight) as client:
                texts = await prompts_for(client, model == "tiny", prompts)
                campaign = Campaign(swarm, client, texts)
                await campaign.undisturbed()
                await part(campaign)
                return campaign.report()


def in_home(places: int, seed: int, run: Callable[[Home], dict[str, Any]]) -> dict[str, Any]:
    """Run in an emulated home of so many nodes, from the client's machine."""
    machines = [Machine(machine(place), delay=1.0, jitter=0.5) for place in range(places)]
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(Home([*machines, Machine(CLIENT)], seed))
        stack.enter_context(home.inside(CLIENT))
        return run(home)


def short(model: str, seed: int) -> dict[str, Any]:
    """A freeze, two silences where there can be an emulated home, and a kill in every phase."""
    stages, spares = 2, 2  # whichever two are killed, the others have all layers

    async def part(campaign: Campaign, home: Home | None) -> None:
        await faults.stops(campaign, 1, seed, most=2.0)
        if home is not None:
            await faults.partitions(campaign, home, 2, seed, most=2.0)
        await faults.kills(campaign, 3, seed)

    def go(home: Home | None) -> dict[str, Any]:
        return asyncio.run(run(model, lambda c: part(c, home), home, stages, spares, 3))

    if reason := why_not():
        print(f"partitions: left out: {reason}")
        return go(None)
    return in_home(stages + spares, seed, go)


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
    parser.add_argument("--short", action="store_true", help="a handful of each, as in CI")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # A time limit's SIGTERM must stop the nodes, which have sessions of their own, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; model {options.model}; seed {options.seed}"
    )
    if options.short:
        return 0 if show("short", short(options.model, options.seed)) else 1
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

        def cut(home: Home) -> dict[str, Any]:
            part = partial(faults.partitions, home=home, number=n.partitions, seed=seed, most=most)
            return asyncio.run(run(model, part, home))

        reports["partitions"] = in_home(STAGES + SPARES, seed, cut)
        well &= show("partitions", reports["partitions"])
    if options.json:
        options.json.write_text(json.dumps(reports, indent=1) + "\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
