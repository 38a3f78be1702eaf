"""What do spot checks cost a ring at work, at which rate?

Run: python -m bench.spot [--stages 3] [--rates 0.01,0.05] [--seconds 60] [--json FILE]

Real node processes on the loopback, one thread each; a round has an answer at every rate, in turn,
so that all meet the same machine. A cost is 1 - tokens/s over tokens/s without checks, at the
median of the rounds; "whole" counts the time from the first token until the answer is there, with
a check at its end if there is one. Nodes are newcomers, unless ``--proven``: checked about twice as
often. Two cores carry the nodes, their client and its checks.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, median, quantiles
from unittest import mock

from bench.nodes import MACHINE, STORY, report, ring
from hearthring import Client
from hearthring.client.standing import open_reputation
from hearthring.verify.reputation import OWN, Evidence

Decode = Callable[[], float]
"""Generates once; tokens per second."""


def main() -> None:
    """Measure and print costs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--engine", default="ggml", choices=("ggml", "torch"))
    parser.add_argument("--prompt", type=int, default=32, help="prompt tokens")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rates", default="0.01,0.05")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--proven", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rates = [0.0, *map(float, options.rates.split(",")), 0.0]
    names = ["no checks", *(f"rate {rate:g}" for rate in rates[1:-1]), "no checks again"]
    wholes: dict[str, list[float]] = {name: [] for name in names}
    verified: dict[str, list[float]] = {name: [] for name in names}
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, XDG_DATA_HOME=folder),  # the user's own memory stays as it is
        ring(options.stages, options.engine) as invite,
        Client([invite], threads=1, sharing="none", draft="none") as client,
    ):
        memory = open_reputation()
        first = client.generate(STORY * 60, max_tokens=40, spot_check=1.0)  # loads the layers
        ids = first.prompt_ids[: options.prompt]
        for stage in first.route if options.proven else ():
            memory.add([Evidence(stage.node, 20.0, 0.0, 2e9, "proven", source=OWN)])

        def decode(name: str, rate: float) -> float:
            begun = time.perf_counter()
            answer = client.generate(
                prompt_ids=ids, max_tokens=options.tokens, temperature=0, spot_check=rate
            )
            assert not answer.caught
            times, spent = answer.timings, time.perf_counter() - begun
            wholes[name].append(options.tokens / (spent - times.first_token_s))
            verified[name].append((answer.verified or 0) / options.tokens)
            return times.decode_tokens_per_s

        ways: dict[str, Decode] = {
            name: partial(decode, name, rate) for name, rate in zip(names, rates, strict=True)
        }
        speeds = measure(ways, options.seconds)
    about = {"machine": MACHINE, "stages": options.stages, "tokens": options.tokens}
    ends = {f"whole, {name}": speed[1:] for name, speed in wholes.items()}
    shown = {f"{name} verified": round(mean(share[1:]), 3) for name, share in verified.items()}
    report(about | shares(speeds) | shares(ends) | shown, options.json)


def measure(ways: dict[str, Decode], seconds: float) -> dict[str, list[float]]:
    """Tokens/s of each way in rounds of so many seconds altogether, but two at least, after one
    that doesn't count; every other one goes backwards."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    begun = time.monotonic()
    for number in itertools.count():
        if number > 2 and time.monotonic() - begun > seconds:
            break
        order = list(ways) if number % 2 else list(reversed(ways))
        for name in order:
            speed = ways[name]()
            if number:
                speeds[name].append(speed)
    return speeds


def shares(speeds: dict[str, list[float]]) -> dict[str, object]:
    """What each way costs beside the first."""
    (first, base), *others = speeds.items()
    figures: dict[str, object] = {f"{first} tokens/s": round(median(base), 2)}
    for name, own in others:
        costs = [1 - mine / other for mine, other in zip(own, base, strict=True)]
        low, _, high = quantiles(costs, n=4)
        figures[f"{name} tokens/s"] = round(median(own), 2)
        figures[f"{name} costs"] = round(median(costs), 4)
        figures[f"{name} quartiles"] = [round(low, 4), round(high, 4)]
    return figures


if __name__ == "__main__":
    main()
