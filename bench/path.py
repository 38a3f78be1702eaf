"""What do proofs cost on the path of a token: a ring's decode with them against one without?

Run: python -m bench.path [--stages 3] [--tokens 48] [--seconds 60] [--json FILE]

Two rings of real node processes on the loopback, one thread each; one hashes, signs and checks
nothing (``bench/unproven.py``). Each round writes the same text by every way, a few tokens each in
turn, so that all meet the same machine. A ring's client has a process of its own, as what proves
nothing must do so from its first row to its last:

    off      the ring without: no row hashes, no signatures, no cells
    signed   row hashes and signatures, which every session has; no cells
    proven   with cells besides, and a proof at the end: what ``hearthring ask`` does

A cost is 1 - the time of a token without over its time by another way, at the median of a text's
tokens; told at the median of the rounds, whose spread is given as quartiles. "off again" is what
the same way differs by from itself.

A text's next row is under way before its reader has the token, and goes on while other ways have
their turn. So a turn waits until nothing moves, and its first tokens, whose trips are over by
then, don't count.
"""

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median, quantiles

from bench.nodes import MACHINE, STORY, report, ring
from bench.unproven import unproven
from hearthring import Client

UNPROVEN = ("-m", "bench.unproven")
WAYS = ("off", "signed", "proven", "off again")
QUIET = 0.1
"""Seconds after which what the turn before has left under way is over."""
AHEAD, TURN = 2, 6
"""Tokens of a turn that don't count, and that do."""


def main() -> None:
    """Measure and print shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--engine", default="ggml", choices=("ggml", "torch"))
    parser.add_argument("--prompt", type=int, default=32, help="prompt tokens")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with ExitStack() as stack:
        writers = {bare: stack.enter_context(writer(options, bare)) for bare in (True, False)}
        ways = {way: writers[way.startswith("off")] for way in WAYS}
        write(ways, options.tokens)  # loads the layers
        rounds = list[dict[str, list[float]]]()
        ends = time.monotonic() + options.seconds
        while len(rounds) < 2 or time.monotonic() < ends:
            rounds.append(write(ways, options.tokens))
    about = {"machine": MACHINE, "stages": options.stages, "tokens": options.tokens}
    report(about | {"rounds": len(rounds)} | costs(rounds), options.json)


@contextmanager
def writer(options: argparse.Namespace, bare: bool) -> Iterator[Connection]:
    """A process with a ring of its own, and its client; ``bare`` ones prove nothing.

    What it is sent is a way, whose next turn it writes and times.
    """
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(there, options, bare)
    )
    process.start()
    there.close()
    try:
        with closing(here):
            yield here
    finally:
        process.join()


def serve(orders: Connection, options: argparse.Namespace, bare: bool) -> None:
    """The life of a writer."""
    with ExitStack() as stack:
        stack.enter_context(unproven() if bare else nullcontext())
        invite = stack.enter_context(
            ring(options.stages, options.engine, program=UNPROVEN if bare else ())
        )
        client = stack.enter_context(Client([invite], threads=1, sharing="none", draft="none"))
        ids = client.generate(STORY * 60, max_tokens=2).prompt_ids[: options.prompt]
        texts = dict[str, Iterator[object]]()
        while True:
            try:
                way = orders.recv()
            except EOFError:
                return
            if way not in texts:
                told = client.stream(
                    prompt_ids=ids, max_tokens=options.tokens, proof=way == "proven"
                )
                texts[way] = iter(told)
            spent = [seconds for _ in range(AHEAD + TURN) if (seconds := step(texts[way]))]
            if len(spent) < AHEAD + TURN:  # the proof, if any, is made behind the last piece
                del texts[way]
            orders.send(spent[AHEAD:])


def write(ways: dict[str, Connection], tokens: int) -> dict[str, list[float]]:
    """Seconds of the tokens of a text that count, by every way; who begins goes round."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(tokens // (AHEAD + TURN) + 1):  # the last sees that there are no more
        first = number % len(WAYS)
        for way in WAYS[first:] + WAYS[:first]:
            time.sleep(QUIET)
            ways[way].send(way)
            times[way] += ways[way].recv()
    return times


def step(text: Iterator[object]) -> float | None:
    """Seconds to the next piece; None behind the last."""
    begun = time.perf_counter()
    return None if next(text, None) is None else time.perf_counter() - begun


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
