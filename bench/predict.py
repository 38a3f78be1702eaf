"""What should guesses have gained in a ring that was measured? Simulated beside measured.

Reads what ``python -m bench.speculation --json FILE`` has written. Every cell is run again in
simulated time: the same texts, drafts and paces, on as many processors as this machine has, which
stages, client and switch share. What these take is that run's own (``bench/tolls.py``), as is what
paces were told of the ring before an answer began; nothing else is taken from the answers that are
foretold.

Run: python -m bench.predict FILE [--cores N] [--json FILE]

A line for each hop, text and way: times as fast as without guesses, measured and simulated, and
their ratio; of ``plain`` it is tokens a second. ``of best`` is measured beside the best simulated
way of all. ``work`` is the time that processors worked for an answer, measured beside simulated:
where the machine does something else meanwhile, it still tells whether the same was done.
"""

import argparse
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from bench.simulator.paced import PacedClient
from bench.simulator.work import Points, Work
from bench.spoken import Dialled
from bench.ways import WAYS, wide
from hearthring.client.cost import Hop, Ring
from hearthring.client.draft import Draft
from hearthring.client.pace import Fixed, Pace
from hearthring.client.paces import open_pace
from hearthring.client.suffix import SuffixDraft
from hearthring.shards.timings import Fit


@dataclass(frozen=True, slots=True)
class Foretold:
    """One line. ``best`` is the highest simulated ratio of this text at this hop, ``work`` what
    processors did for an answer, measured beside simulated; 0 where it wasn't measured."""

    hop_ms: float
    text: str
    way: str
    measured: float
    simulated: float
    best: float
    work: float


def measured_ring(tolls: Mapping[str, Any], cores: int) -> tuple[Ring, Work]:
    """A ring and what processors do in it, as a run has measured them.

    Of the time that a trip of one row takes beyond engines and links, stages, client and switch
    account for so many seconds of processors: the share of these that it waits for is that of all
    steps. What is left even if it waits for all of them is the links'.
    """
    stages = tuple(points(curve) for curve in tolls["engines"])
    stage, client, wire = (points(tolls[name]) for name in ("stage", "client", "wire"))
    hops = len(stages) + 1
    messages = len(stages) * stage.seconds(1) + client.seconds(1) + hops * wire.seconds(1)
    beyond = points(tolls["trip"]).seconds(1) - sum(s.seconds(1) for s in stages)
    beyond -= hops * tolls["hop"]
    path = min(1.0, max(0.0, beyond / messages))
    latency = tolls["hop"] + max(0.0, beyond - messages) / hops
    empty = mean(s.seconds(0) for s in stages)
    work = Work(stage, client, wire, path, empty, tolls["note"])
    ends = points(tolls["ends"])
    return Ring(stages, (Hop(latency),) * hops, ends=ends, processors=cores), work  # type: ignore[arg-type]


def points(curve: Sequence[Sequence[float]]) -> Points:
    """Of a list in JSON."""
    return Points(tuple((int(rows), seconds) for rows, seconds in curve))


def told(expected: Mapping[str, Any] | None) -> Ring | None:
    """What paces were told of the ring before an answer, in that run."""
    if expected is None:
        return None
    stages = (Fit(**stage) for stage in expected["stages"])
    return Ring(tuple(stages), tuple(Hop(**hop) for hop in expected["hops"]))


def draft_of(name: str, text: Sequence[int], siblings: int) -> Draft:
    """The draft of a case."""
    if found := re.fullmatch(r"a=([\d.]+)", name):
        return Dialled(text, float(found[1]))
    return SuffixDraft(siblings)


def run(
    ring: Ring,
    work: Work,
    text: Mapping[str, list[int]],
    draft: Draft | None,
    pace: Pace,
    announced: Ring | None = None,
) -> tuple[float, float]:
    """Tokens a second behind the first one of an answer, and seconds of processors for it."""
    whole, first = [*text["prompt"], *text["answer"]], len(text["prompt"])
    client = PacedClient(ring, draft, pace, whole, first, work=work, announced=announced)
    return (len(text["answer"]) - 1) / client.run(), client.worked


def gain(
    ring: Ring,
    work: Work,
    name: str,
    texts: Sequence[Mapping[str, Any]],
    way: str,
    announced: Ring | None = None,
) -> tuple[float, float]:
    """Times as fast as without guesses, and seconds of processors, in the mean over a case's
    texts."""
    found = []
    for text in texts:
        draft = draft_of(name, [*text["prompt"], *text["answer"]], wide(way))
        fast, worked = run(ring, work, text, draft, open_pace(WAYS[way], None), announced)
        found.append((fast / run(ring, work, text, None, Fixed())[0], worked))
    ratios, works = zip(*found, strict=True)
    return mean(ratios), mean(works)


def foretold(measured: Mapping[str, Any], cores: int) -> Iterator[Foretold]:
    """Every line, a case's plain one first."""
    for hop, cases in measured.items():
        hop_ms = float(hop.split()[0])
        for name, case in cases.items():
            ring, work = measured_ring(case["tolls"], cores)
            plain = mean(run(ring, work, text, None, Fixed())[0] for text in case["texts"])
            rate = case["plain_tokens_per_s"]
            yield Foretold(hop_ms, name, "plain", rate, plain, plain, 0.0)
            known = told(case.get("expected"))
            every = {way: gain(ring, work, name, case["texts"], way, known) for way in WAYS}
            best = max(1.0, *(ratio for ratio, _ in every.values()))
            for way, figures in case["ways"].items():
                ratio, worked = every[way]
                took = figures.get("processor_s", 0.0) / worked
                yield Foretold(hop_ms, name, way, figures["ratio"], ratio, best, took)


def main() -> None:
    """One line for each hop, text and way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    heads = ("measured", "simulated", "ratio", "of best", "work")
    print(f"{'hop':>6} {'text':>8} {'way':>14}", *(f"{head:>9}" for head in heads))
    lines = []
    for line in foretold(json.loads(options.file.read_text()), options.cores):
        figures = (line.measured, line.simulated, line.measured / line.simulated)
        print(
            f"{line.hop_ms:6g} {line.text:>8} {line.way:>14}",
            *(f"{figure:9.2f}" for figure in (*figures, line.measured / line.best, line.work)),
            flush=True,
        )
        lines.append(
            {name: getattr(line, name) for name in Foretold.__slots__} | {"ratio": figures[2]}
        )
    if options.json:
        options.json.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
