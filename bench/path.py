"""What do proofs cost on the path of a token: a ring's decode with them against one without?

Run: python -m bench.path [--stages 3] [--tokens 48] [--seconds 60] [--json FILE]

Two rings of real node processes on the loopback, one thread each; one hashes, signs and checks
nothing (``bench/unproven.py``). Each round has an answer by every way, in turn:

    off      the ring without: no row hashes, no signatures, no cells
    signed   row hashes and signatures, which every session has; no cells
    proven   with cells besides, and a proof at the end: what ``hearthring ask`` does

A cost is 1 - speed over the speed without, at the median of the rounds, whose spread is given as
quartiles; "off again" is what the same way differs by from itself. Speeds are tokens/s, and steps/s
at the median step of an answer, which says less of what else the machine does.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from bench.nodes import MACHINE, STORY, report, ring
from bench.unproven import unproven
from hearthring import Client

UNPROVEN = ("-m", "bench.unproven")
Decode = Callable[[], float]
"""Generates once; tokens per second."""


def main() -> None:
    """Measure and print shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--engine", default="ggml", choices=("ggml", "torch"))
    parser.add_argument("--prompt", type=int, default=32, help="prompt tokens")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with ExitStack() as stack:
        with unproven():
            off = client_of(stack, options, program=UNPROVEN)
            ids = off.generate(STORY * 60, max_tokens=2).prompt_ids[: options.prompt]
        on = client_of(stack, options)

        names = ("off", "signed", "proven", "off again")
        steps: dict[str, list[float]] = {name: [] for name in names}

        def decode(name: str) -> float:
            without = name.startswith("off")
            with unproven() if without else nullcontext():
                stream = (off if without else on).stream(
                    prompt_ids=ids, max_tokens=options.tokens, proof=name == "proven"
                )
                times = [time.perf_counter() for _ in stream]
            steps[name].append(
                1 / median(after - before for before, after in itertools.pairwise(times))
            )
            return stream.answer.timings.decode_tokens_per_s

        ways: dict[str, Decode] = {name: partial(decode, name) for name in names}
        speeds = measure(ways, options.seconds)
    about = {"machine": MACHINE, "stages": options.stages, "tokens": options.tokens}
    medians = {f"{name}, median step": some[1:] for name, some in steps.items()}
    report(about | shares(speeds) | shares(medians), options.json)


def client_of(
    stack: ExitStack, options: argparse.Namespace, program: tuple[str, ...] = ()
) -> Client:
    """A client of a ring of its own."""
    invite = stack.enter_context(ring(options.stages, options.engine, program=program))
    return stack.enter_context(Client([invite], threads=1, sharing="none", draft="none"))


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
