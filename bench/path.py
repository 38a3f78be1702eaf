"""What do proofs cost on the path of a token: a ring's decode with them against one without?

Run: python -m bench.path [--stages 3] [--tokens 48] [--seconds 60] [--json FILE]

Two rings of real node processes on the loopback, one thread each; one hashes, signs and checks
nothing (``bench/unproven.py``). Each round writes the same text by every way, token by token in
turn, so that all meet the same machine:

    off      the ring without: no row hashes, no signatures, no cells
    signed   row hashes and signatures, which every session has; no cells
    proven   with cells besides, and a proof at the end: what ``hearthring ask`` does

A cost is 1 - the time of a token without over its time by another way, at the median of a text's
tokens; told at the median of the rounds, whose spread is given as quartiles. "off again" is what
the same way differs by from itself.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median, quantiles

from bench.nodes import MACHINE, STORY, report, ring
from bench.unproven import unproven
from hearthring import Client

UNPROVEN = ("-m", "bench.unproven")
WAYS = ("off", "signed", "proven", "off again")


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
        texts = partial(write, {way: off if way[:3] == "off" else on for way in WAYS}, ids)
        texts(options.tokens)  # loads the layers
        rounds = list[dict[str, list[float]]]()
        ends = time.monotonic() + options.seconds
        while len(rounds) < 2 or time.monotonic() < ends:
            rounds.append(texts(options.tokens))
    about = {"machine": MACHINE, "stages": options.stages, "tokens": options.tokens}
    report(about | {"rounds": len(rounds)} | costs(rounds), options.json)


def client_of(
    stack: ExitStack, options: argparse.Namespace, program: tuple[str, ...] = ()
) -> Client:
    """A client of a ring of its own."""
    invite = stack.enter_context(ring(options.stages, options.engine, program=program))
    return stack.enter_context(Client([invite], threads=1, sharing="none", draft="none"))


def write(clients: dict[str, Client], ids: list[int], tokens: int) -> dict[str, list[float]]:
    """Seconds of every piece of a text behind the first, by every way. The ways take turns at each
    piece; who begins goes round."""
    streams = {
        way: iter(client.stream(prompt_ids=ids, max_tokens=tokens, proof=way == "proven"))
        for way, client in clients.items()
    }
    times: dict[str, list[float]] = {way: [] for way in streams}
    for number in count():
        first = number % len(WAYS)
        order = WAYS[first:] + WAYS[:first]
        spent = {way: step(way, streams[way]) for way in order}
        if None in spent.values():
            break
        for way, seconds in spent.items():
            if number and seconds is not None:
                times[way].append(seconds)
    for way, stream in streams.items():  # the proof is made behind the last piece
        while step(way, stream) is not None:
            pass
    return times


def step(way: str, stream: Iterator[object]) -> float | None:
    """Seconds to the next piece; None behind the last."""
    with unproven() if way.startswith("off") else nullcontext():
        begun = time.perf_counter()
        return None if next(stream, None) is None else time.perf_counter() - begun


def costs(rounds: list[dict[str, list[float]]]) -> dict[str, object]:
    """What each way costs beside the first."""
    base, *others = WAYS
    figures: dict[str, object] = {f"{base} ms": _milliseconds(rounds, base)}
    for way in others:
        shares = [
            median(1 - without / own for without, own in zip(times[base], times[way], strict=True))
            for times in rounds
        ]
        low, _, high = quantiles(shares, n=4)
        figures[f"{way} ms"] = _milliseconds(rounds, way)
        figures[f"{way} costs"] = round(median(shares), 4)
        figures[f"{way} quartiles"] = [round(low, 4), round(high, 4)]
    return figures


def _milliseconds(rounds: list[dict[str, list[float]]], way: str) -> float:
    """A token's, at the median of texts' medians."""
    return round(median(median(times[way]) for times in rounds) * 1e3, 2)


if __name__ == "__main__":
    main()
