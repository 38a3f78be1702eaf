"""What does a node that dies, freezes, falls silent or leaves cost?

Run: python -m bench.failover [--kills 100] [--stops 30] [--partitions 30] [--drains 20]
                              [--model tiny|smollm2] [--seed 1]
                              [--results FILE.jsonl [--seconds N] [--report]] | --short

Four stages and two spares, each a real node process that is started again when it ends, and
generations of 64 tokens. Faults strike uniformly over prefill, decode and the hand-over to a
replacement (a second node while the first is being replaced). Printed for each kind: wrong tokens,
lost requests, how long until the client noticed, until the ring was whole, and the longest wait for
a token. Drains: every node in turn leaves and comes back while generations go on.

With ``--results`` every outcome is kept, faults that were run aren't run again, and none begins
after so many ``--seconds``: a long campaign is run in pieces. Partitions need the emulated home
(Linux, root), in which every node has a machine of its own; elsewhere they are left out by name.
``--short`` is a handful of each in one swarm of two stages and two spares. The exit code is 0 if no
token was wrong, no request lost and nothing broke off.
"""

import argparse
import asyncio
import contextlib
import math
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from bench.homelab import Home, Machine, why_not
from bench.nodes import MACHINE
from hearthring import AsyncClient
from hearthring.shards.store import ModelStore
from tests.chaos import campaign as kinds
from tests.chaos.campaign import Campaign
from tests.chaos.outcomes import Results, report
from tests.chaos.swarm import CLIENT, SPARES, STAGES, chaos_swarm, machine
from tests.reference import PROMPTS
from tests.tiny import write_tiny_gguf

TINY_LAYERS = 8
KINDS = ("kills", "stops", "partitions", "drains")
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
    results: Results,
    until: float = math.inf,
    home: Home | None = None,
    stages: int = STAGES,
    spares: int = SPARES,
    prompts: int = 8,
) -> None:
    """Faults in a swarm of their own; none is begun after the moment ``until``."""
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
                campaign = Campaign(swarm, client, texts, results, until)
                await campaign.undisturbed()
                await part(campaign)


def in_home(places: int, seed: int, run: Callable[[Home], None]) -> None:
    """Run in an emulated home of so many nodes, from the client's machine."""
    machines = [Machine(machine(place), delay=1.0, jitter=0.5) for place in range(places)]
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(Home([*machines, Machine(CLIENT)], seed))
        stack.enter_context(home.inside(CLIENT))
        run(home)


def short(model: str, seed: int) -> Results:
    """A freeze, two silences where there can be an emulated home, and a kill in every phase."""
    stages, spares = 2, 2  # whichever two are killed, the others have all layers
    results = Results()

    async def part(campaign: Campaign, home: Home | None) -> None:
        await kinds.stops(campaign, 1, seed, most=2.0)
        if home is not None:
            await kinds.partitions(campaign, home, 2, seed, most=2.0)
        await kinds.kills(campaign, 3, seed)

    def go(home: Home | None) -> None:
        places = home, stages, spares, 3
        asyncio.run(run(model, lambda c: part(c, home), results, math.inf, *places))

    if reason := why_not():
        print(f"partitions: left out: {reason}")
        go(None)
    else:
        in_home(stages + spares, seed, go)
    return results


def show(name: str, figures: dict[str, Any]) -> bool:
    """Print one kind's figures; whether nothing was wrong or lost."""
    print(f"{name}:")
    for key, value in figures.items():
        print(f"  {key:<12} {value}")
    sys.stdout.flush()
    return not figures["wrong"] and not figures["lost"]


def run_kind(kind: str, options: argparse.Namespace, path: Path | None, until: float) -> None:
    """The faults of a kind that aren't among the results yet."""
    # A time limit's SIGTERM must stop the nodes, which have sessions of their own, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    number, seed, most = getattr(options, kind), options.seed, options.most
    results = Results(path)

    def go(part: Part, home: Home | None = None) -> None:
        asyncio.run(run(options.model, part, results, until, home))

    match kind:
        case "kills":
            go(partial(kinds.kills, number=number, seed=seed))
        case "stops":
            go(partial(kinds.stops, number=number, seed=seed, most=most))
        case "drains":
            go(partial(kinds.drains, number=number))
        case "partitions" if reason := why_not():
            print(f"partitions: left out: {reason}")
        case "partitions":

            def cut(home: Home) -> None:
                go(partial(kinds.partitions, home=home, number=number, seed=seed, most=most), home)

            in_home(STAGES + SPARES, seed, cut)


def campaign(options: argparse.Namespace, path: Path) -> bool:
    """Run what isn't done yet, kind after kind, until the time is over; whether that went well.

    Each in a process of its own: threads stay in whichever machine they were started.
    """
    well, until = True, time.monotonic() + options.seconds
    for kind in KINDS:
        if len(Results(path).done(kind)) >= getattr(options, kind) or time.monotonic() > until:
            continue
        running = get_context("spawn").Process(target=run_kind, args=(kind, options, path, until))
        running.start()
        try:
            running.join()
        finally:
            running.terminate()
            running.join()
        well &= running.exitcode == 0
    return well


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
    parser.add_argument("--results", type=Path, help="keep outcomes here, and go on with them")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin nothing later")
    parser.add_argument("--report", action="store_true", help="only show what --results has")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"{MACHINE}; model {options.model}; seed {options.seed}")
    if options.short:
        outcomes = short(options.model, options.seed).all
        return 0 if show("short", report(outcomes)) else 1
    with tempfile.TemporaryDirectory() as scratch:
        path = options.results or Path(scratch) / "results.jsonl"
        well = options.report or campaign(options, path)
        results = Results(path)
    for kind in KINDS:
        if found := results.of(kind):
            well &= show(kind, report(found))
            if len(results.done(kind)) < (wanted := getattr(options, kind)):
                print(f"  unfinished   {len(results.done(kind))} of {wanted}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
