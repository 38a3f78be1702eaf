"""Are tokens that come round a ring drawn from the target, by every rule of acceptance?

Run: python -m bench.chi_square [--samples 20000] [--seed 1] [--only N] [--faults]

A ring in this process: two stages of a layer each, a client, a model of 12 tokens, drafts that
draw from chances of their own or copy (``tests/fair_ring.py``). For each rule so many tokens, of
sessions with seeds from ``--seed`` on, are held against the chances that ``transformers`` gives
them, by three chi-square tests. With ``--faults`` rules and drafts with known bugs
(``tests/unfair.py``) are tried instead. The exit code is 1 when a right rule doesn't fit, or a
wrong one isn't noticed.
"""

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

from tests.fair_ring import CASES, FAULTY, LENGTH, TEMPERATURE, fair_ring

LEAST = 1e-4
"""Chance of a fair ring's being off by as much, below which it doesn't count as one."""


async def run(samples: int, seed: int, faults: bool, only: int | None, folder: Path) -> bool:
    """Whether all is as it should be; a line is printed for each case."""
    wrong = [(case, fault) for fault, case in FAULTY.items()]
    asked = wrong if faults else [(case, "") for case in CASES]
    right = True
    async with fair_ring(folder) as ring:
        for place, (case, fault) in enumerate(asked):
            if only not in (None, place):
                continue
            begun = time.monotonic()
            first = seed + place * -(-samples // LENGTH)
            found = await ring.sample(case, samples, first, fault)
            p = found.p_values()
            fits = min(p.values()) >= LEAST
            right &= fits != bool(fault)
            print(
                f"{case}{f' ({fault})' if fault else ''}: {len(found.tokens)} tokens, "
                f"{found.tokens_per_trip:.2f} a trip, p "
                + ", ".join(f"{name} {value:.2g}" for name, value in p.items())
                + f": {'fits' if fits else 'does not fit'} "
                f"(seeds from {first}, {time.monotonic() - begun:.0f} s)",
                flush=True,
            )
    return right


def main() -> None:
    """All rules, or all faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", action="store_true")
    parser.add_argument("--only", type=int, help="one case, counted from 0")
    options = parser.parse_args()
    print(f"temperature {TEMPERATURE}, sessions of {LENGTH} tokens, seed {options.seed}")
    with tempfile.TemporaryDirectory() as name:
        os.environ["HEARTHRING_MODELS"] = f"{name}/models"
        os.environ["XDG_DATA_HOME"] = f"{name}/data"
        right = asyncio.run(
            run(options.samples, options.seed, options.faults, options.only, Path(name))
        )
    raise SystemExit(0 if right else 1)


if __name__ == "__main__":
    main()
