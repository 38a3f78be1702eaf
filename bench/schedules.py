"""Does any order of events let guesses change an answer, or make a stage refuse an honest session?

Run: python -m bench.schedules [--interleavings 100000] [--schedules 200] [--deaths 30] [--seed 1]

Interleavings are courses of steps and cancellations along one to three stages, without tensors,
against a model (``tests/interleavings.py``). Schedules are whole answers round a ring of tiny
engines in this process: random trees, random steps at once, stages slow at random, greedy, sampled
and penalised in turn; tokens, row hashes and digests of every stage must be those of plain decoding
(``tests/schedules.py``). In the last kind a stage dies meanwhile and a spare takes its place. The
first difference ends the run with its seed.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hearthring.client.answer import Guessing
from hearthring.shards.store import ModelEntry, ModelStore
from tests.interleavings import interleavings
from tests.schedules import KINDS, death, schedules
from tests.tiny import write_tiny_gguf


async def deaths(entry: ModelEntry, seeds: Sequence[int]) -> list[Guessing]:
    """One answer a seed, of the kinds in turn."""
    return [await death(entry, list(KINDS)[seed % len(KINDS)], seed) for seed in seeds]


def show(name: str, found: Sequence[Guessing], begun: float) -> None:
    """A line of totals."""
    tokens, hits = sum(g.tokens for g in found), sum(g.hits for g in found)
    guesses = sum(g.guesses for g in found)
    print(
        f"{name}: {len(found)} answers, {tokens} tokens, {guesses} guesses, {hits} came true; none "
        f"changed anything ({time.monotonic() - begun:.0f} s)",
        flush=True,
    )


def main() -> None:
    """All kinds that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interleavings", type=int, default=100_000)
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--deaths", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.interleavings:
        begun = time.monotonic()
        sent, dead = interleavings(options.interleavings, options.seed)
        print(
            f"interleavings: {options.interleavings}, {sent} steps, {dead} rows came back dead; "
            f"none was refused ({time.monotonic() - begun:.0f} s)",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEARTHRING_MODELS"] = str(Path(folder) / "models")
        entry = ModelStore().find(str(write_tiny_gguf(Path(folder) / "tiny.gguf")))
        base, share = 10_000 * options.seed, -(-options.schedules // len(KINDS))
        for place, kind in enumerate(KINDS if share else ()):
            begun = time.monotonic()
            seeds = range(base + share * place, base + share * (place + 1))
            show(f"{kind} schedules", asyncio.run(schedules(entry, kind, seeds)), begun)
        if options.deaths:
            begun = time.monotonic()
            seeds = range(base, base + options.deaths)
            show("a stage that dies", asyncio.run(deaths(entry, seeds)), begun)


if __name__ == "__main__":
    main()
