"""What do guesses gain round a ring of four machines, by the time that a hop takes?

Run: python -m bench.speculation [--hops 0 2 10 50] [--kinds chat code edit] [--tokens 48]
                                 [--rounds 2] [--alphas 0.5 0.7 0.85] [--ways NAME ...]
                                 [--json FILE]

SmolLM2 in an emulated home (Linux, root): four node processes with a machine each, a fourth of the
layers and one thread, and this client on a machine of its own; all share this computer's
processors. Every text is generated plainly and in every other way in turn; a figure is the median
of the ratios of runs that followed each other, in the mean over a kind's prompts, and in brackets
tokens a trip. The drafts are the
suffix automaton's (two siblings in a tree) on the prompts of ``bench/spoken.py``, and with
``--alphas`` synthetic ones: the target's own text, right at every position with that chance. All
tokens are compared with the plain ones, so a wrong one ends the run. With ``--json``, what the run
should have brought is foretold by ``bench/predict.py``.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Any

from bench.homelab import Home, Machine, why_not
from bench.nodes import MACHINE
from bench.spoken import KINDS, Dialled
from bench.tolls import measure as tolls_of
from bench.tolls import meter_of
from bench.watched import Meter, Watched
from bench.ways import WAYS, wide
from hearthring import AsyncClient
from hearthring.client.answer import Answer
from hearthring.client.cost import Ring
from hearthring.client.draft import Draft
from hearthring.client.pace import Pace
from hearthring.client.paces import open_pace
from hearthring.client.suffix import SuffixDraft
from hearthring.processes import NodeProcess

CUTS = (0, 8, 15, 23, 30)
CLIENT = "me"
Make = Callable[[Answer, int], Draft]
"""A draft for a text that is known, of so many siblings."""


@dataclass
class Cell:
    """Runs of one way, prompt by prompt: ratios to the plain run before, tokens a trip, and seconds
    of processors."""

    ratios: list[list[float]] = field(default_factory=list)
    trips: list[list[float]] = field(default_factory=list)
    work: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        """As the table has it."""
        return f"{typical(self.ratios):5.2f} ({typical(self.trips):4.2f})"


def typical(figures: Sequence[Sequence[float]]) -> float:
    """The mean over prompts of each one's median: prompts differ more than runs do."""
    return mean(map(median, figures))


@dataclass
class Bench:
    """One ring and what is asked of it."""

    client: AsyncClient
    meter: Meter
    tokens: int
    rounds: int
    plain: dict[str, list[list[float]]] = field(default_factory=dict)
    stages: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    ways: Sequence[str] = tuple(WAYS)
    texts: dict[str, list[dict[str, list[int]]]] = field(default_factory=dict)
    """Of each case: prompts and answers as tokens."""
    expected: dict[str, Ring] = field(default_factory=dict)
    """Of each case: what paces were told of the ring, the last time."""

    async def ask(self, draft: Draft | None, pace: Pace | None, **question: Any) -> Answer:
        """One answer."""
        self.client.answering.pace = "auto" if pace is None else lambda: pace
        make: Any = "none" if draft is None else lambda setting: draft
        return await self.client.generate(
            draft=make, proof=False, max_tokens=self.tokens, **question
        )

    async def compare(self, name: str, prompts: tuple[str, ...], make: Make) -> dict[str, Cell]:
        """All ways on some prompts, each after a plain run."""
        cells = {way: Cell() for way in self.ways}
        for prompt in prompts:
            question = {"messages": [{"role": "user", "content": prompt}]}
            self.plain.setdefault(name, []).append([])
            for cell in cells.values():
                cell.ratios.append([])
                cell.trips.append([])
            for _ in range(self.rounds):
                before = await self.ask(None, None, **question)
                for way in self.ways:
                    count = len(before.token_ids)
                    pace = Watched(open_pace(WAYS[way], None), self.meter, count)
                    answer = await self.ask(make(before, wide(way)), pace, **question)
                    if pace.expected is not None:
                        self.expected[name] = pace.expected
                    if answer.token_ids != before.token_ids:
                        raise SystemExit(f"{name}, {way}: other tokens than without guesses")
                    rates = answer.timings.decode_tokens_per_s, before.timings.decode_tokens_per_s
                    cells[way].ratios[-1].append(rates[0] / rates[1])
                    cells[way].trips[-1].append(answer.guessing.tokens_per_trip)
                    cells[way].work.append(sum(pace.spent.values()))
                self.plain[name][-1].append(before.timings.decode_tokens_per_s)
                self.stages.setdefault(name, []).append(before.timings.stage_compute_s)
            text = {"prompt": before.prompt_ids, "answer": before.token_ids}
            self.texts.setdefault(name, []).append(text)
        return cells


async def measure(
    invite: str,
    options: argparse.Namespace,
    nodes: Mapping[str, int],
    switch: int,
    hop: float,
) -> dict[str, Any]:
    """All figures of one home, whose nodes and switch are these processes."""
    found: dict[str, Any] = {}
    # Without sharing: rows of earlier answers would be copied instead of computed.
    async with AsyncClient([invite], "smollm2", threads=1, sharing="none") as client:
        client.answering.lessons = None  # no run learns from another
        meter = meter_of(nodes, switch)
        bench = Bench(client, meter, options.tokens, options.rounds, ways=options.ways)
        question = {"messages": [{"role": "user", "content": KINDS["chat"][0]}]}
        tolls = await tolls_of(client, question, nodes, switch, hop / 1e3)
        cases: list[tuple[str, tuple[str, ...], Make]] = [
            (kind, KINDS[kind], lambda answer, wide: SuffixDraft(wide)) for kind in options.kinds
        ]
        for alpha in options.alphas:

            def dialled(answer: Answer, wide: int, alpha: float = alpha) -> Draft:
                return Dialled(answer.prompt_ids + answer.token_ids, alpha)

            cases.append((f"a={alpha:g}", KINDS["chat"][:1], dialled))
        for name, prompts, make in cases:
            cells = await bench.compare(name, prompts, make)
            rate = typical(bench.plain[name])
            print(
                f"{name:<8}{rate:7.2f}  " + "  ".join(str(cells[way]) for way in bench.ways),
                flush=True,
            )
            found[name] = {
                "tolls": asdict(tolls),
                "plain_tokens_per_s": round(rate, 3),
                "stage_ms": [
                    round(median(s) * 1e3, 2) for s in zip(*bench.stages[name], strict=True)
                ],
                "texts": bench.texts[name],
                "expected": asdict(bench.expected[name]) if name in bench.expected else None,
                "ways": {
                    way: {
                        "ratio": round(typical(cell.ratios), 3),
                        "least": round(min(map(min, cell.ratios)), 3),
                        "tokens_per_trip": round(typical(cell.trips), 3),
                        "processor_s": round(mean(cell.work), 4),
                    }
                    for way, cell in cells.items()
                },
            }
    return found


def at_hop(hop: float, options: argparse.Namespace) -> dict[str, Any]:
    """A home whose hops take so many milliseconds, and its figures."""
    names = [f"n{place}" for place in range(len(CUTS) - 1)]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        machines = [Machine(name, delay=hop / 2) for name in (*names, CLIENT)]
        home = stack.enter_context(Home(machines))
        stack.enter_context(home.inside(CLIENT))
        invite, nodes = "", dict[str, int]()
        for place, name in enumerate(names):
            window = f"{CUTS[place]}:{CUTS[place + 1]}"
            listen = f"{home.address(name)}:4870"
            flags = ["--model", "smollm2", "--layers", window, "--listen", listen]
            flags += ["--threads", "1", "--engine", "ggml", "--data", f"{folder}/{place}"]
            if invite:
                flags += ["--join", invite]
            node = NodeProcess(window, flags, before=home.prefix(name))
            nodes[name] = node.process.pid
            stack.callback(node.stop)
            ready = node.ready()
            invite = invite or ready
        print(
            f"hop {hop:g} ms\n{'':8}{'plain/s':>7}  " + "  ".join(f"{w:>12}" for w in options.ways)
        )
        return asyncio.run(measure(invite, options, nodes, home.switch, hop))


def main() -> int:
    """One table for each hop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hops", type=float, nargs="+", default=[0, 2, 10, 50])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--alphas", type=float, nargs="*", default=[])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if reason := why_not():
        print(f"left out: {reason}")
        return 2
    print(f"{MACHINE}; SmolLM2, {options.tokens} tokens")
    found = dict[str, Any]()
    for hop in options.hops:
        # A process each: threads of the last home's client would stay in a network that is gone.
        with ProcessPoolExecutor(1, get_context("spawn")) as one:
            found[f"{hop:g} ms"] = one.submit(at_hop, hop, options).result()
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
