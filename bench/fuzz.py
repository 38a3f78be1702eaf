"""Do mutated frames crash a node, make it grow, or disturb anybody?

Run: python -m bench.fuzz [--frames 1000000] [--live 20000] [--tls 20000] [--seed 1]

First, frames of every kind of message, with one to three changes, go through the real decoding
and, where they are steps, through a real session (order, rows, parents, positions, shapes, finite
values, hashes, signature) on an engine that computes nothing. Every second frame is a step; half of
the steps are changed before they are signed, as a hostile but well-spoken peer would. Then a stage
with a real engine takes mutated steps from one peer after another, while an honest session beside
it must get the bits it would get alone. The same over TLS, where honest sessions follow each other
all the while, after every broken rule and every flood there is was refused by its name. Anything
but a named error of a peer ends the run.
"""

import argparse
import asyncio
import gc
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from bench.null_stage import Sender
from hearthring.protocol.errors import ProtocolError
from tests.frames import CORPUS
from tests.mutants import mutated, mutated_steps
from tests.stage_peer import honest_beside, rig, tiny_engine
from tests.tiny import write_tiny_gguf
from tests.tls_attack import attack, floods, mutations, refusals

WARM = 20
"""One part in so many is run before memory is first looked at."""


def resident() -> float:
    """MiB of this process, garbage collected."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def offline(frames: int, seed: int) -> None:
    """Decode and validate, nothing else."""
    draw = np.random.default_rng(seed)
    sender, corpus = Sender(draw), [item for item in CORPUS.items() if item[0] != "step"]
    everything = [frame for kind, (samples, _) in corpus for frame in samples]
    decoded, refused, before = 0, Counter[str](), 0.0
    begun = time.monotonic()
    for n in range(frames):
        if n == frames // WARM:
            before = resident()
        if n % 2:
            sender.take(sender.frame())
            continue
        _, (samples, decode) = corpus[n // 2 % len(corpus)]
        data = mutated(samples[int(draw.integers(len(samples)))], everything, draw)
        try:
            decode(data)
        except ProtocolError as error:
            refused[type(error).__name__] += 1
            continue
        decoded += 1
    seconds = time.monotonic() - begun
    print(f"{frames} frames in {seconds:.0f} s: {frames / seconds:.0f} a second, no crash")
    print(f"  other messages: {decoded} decode, refused {dict(refused.most_common())}")
    print(f"  steps: {sender.passed} pass, in {sender.sessions} sessions")
    print(f"  steps refused {dict(sender.refused.most_common())}")
    print(f"  growth {resident() - before:.1f} MiB after the first {frames // WARM} frames")


async def live(frames: int, seed: int) -> None:
    """Mutated steps against a stage with a real engine, beside an honest session."""
    with tempfile.TemporaryDirectory() as folder:
        engine = tiny_engine(write_tiny_gguf(Path(folder) / "tiny.gguf"))
    begun, before = time.monotonic(), 0.0

    def look(number: int) -> None:
        nonlocal before
        if number == frames // WARM:
            before = resident()

    async with rig(engine) as stage, honest_beside(stage) as honest:
        ends = await mutated_steps(stage, honest, frames, np.random.default_rng(seed), look)
        growth = resident() - before
    print(f"{frames} frames at a live stage in {time.monotonic() - begun:.0f} s")
    print(f"  sessions ended by {dict(ends.most_common())}")
    print("  the honest session beside got every bit it would get alone, and its receipt")
    print(f"  growth {growth:.1f} MiB after the first {frames // WARM} frames")


async def over_tls(frames: int, seed: int) -> None:
    """Broken rules, floods and mutated steps at a stage over TLS, beside honest sessions."""
    with tempfile.TemporaryDirectory() as folder:
        engine = tiny_engine(write_tiny_gguf(Path(folder) / "tiny.gguf"))
    begun, before = time.monotonic(), 0.0

    def look(n: int) -> None:
        nonlocal before
        if n == frames // WARM:
            before = resident()
        if n and n % max(1, frames // WARM) == 0:
            print(f"  {n} frames after {time.monotonic() - begun:.0f} s", flush=True)

    async with attack(engine) as found:
        print(
            f"over TLS: {await refusals(found)} broken rules, each refused by its own name",
            flush=True,
        )
        for what, said in (await floods(found)).items():
            print(f"  too many of {what}: {said}", flush=True)
        begun = time.monotonic()
        ends = await mutations(found, frames, np.random.default_rng(seed), look)
        growth = resident() - before
        print(f"{frames} frames over TLS in {time.monotonic() - begun:.0f} s")
        print(f"  sessions ended by {dict(ends.most_common())}")
        print(
            f"  {found.stories} honest sessions meanwhile got every bit and their receipts; "
            f"a step took {found.slowest:.3f} s at most"
        )
        print(f"  growth {growth:.1f} MiB after the first {frames // WARM} frames")


def main() -> None:
    """All parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--live", type=int, default=20_000)
    parser.add_argument("--tls", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"seed {options.seed}")
    if options.frames:
        offline(options.frames, options.seed)
    if options.live:
        asyncio.run(live(options.live, options.seed))
    if options.tls:
        asyncio.run(over_tls(options.tls, options.seed))


if __name__ == "__main__":
    main()
