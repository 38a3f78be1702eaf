"""What do audits catch, what do they let pass, and whom do they accuse wrongly?

A model answers prompts that it wrote itself, as a ring of three stages would; the middle one cheats
in each of the listed ways (or the one that is named), the stages after it compute honestly on what
they are sent. Every proof goes through the audits that users run:

bits      replay in the route's class: caught, and the guilty stage named
digest    replay from the prompt in another class (torch in fp32), by digests and token scores
channels  replay of the recorded input in another class, all channels compared

Thresholds of the last two are those of ``hearthring calibrate``. Cheats that a neighbour refuses on
the way are run in a ring of a tiny model. Every few answers, honest rows go through the same: in
steps of 1, 5 and 8 rows, trees, chunks and threads (a check is a chunk at a boundary), and by
routes of every kernel policy and both engines. Results are kept by text, so that a run can be
broken off and gone on with, and several can share the work.

Run: python -m bench.detection [--model smollm2] [--residual bf16] [--first 0 --last 100]
     [--results FILE.jsonl] [--honest-every 4] [--only-honest] [--short] [--report]
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.cases import Bench
from bench.detected import read, report
from bench.honest import Honest
from bench.refused import refused
from hearthring.protocol.tensors import Residual


def main() -> int:
    """Run what isn't there yet, or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--residual", default="bf16")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, default=100)
    parser.add_argument("--results", type=Path, default=Path("detection.jsonl"))
    parser.add_argument("--honest-every", type=int, default=4, help="answers per honest one")
    parser.add_argument("--only-honest", action="store_true")
    parser.add_argument("--short", action="store_true", help="two answers, two minutes")
    parser.add_argument("--report", action="store_true", help="only print what is there")
    options = parser.parse_args()
    if options.report:
        return report(options.results, options.model)
    results: Path = options.results
    kept = read(results) if results.exists() else []
    part = "in_class" if options.only_honest else "cases"
    done = {line["text"] for line in kept if line.get(part)}
    runs = 2 if options.short else options.last - options.first
    bench = Bench(options.model, Residual(options.residual))
    honest = Honest(bench)
    for number in range(options.first, options.first + runs):
        its_turn = number % options.honest_every == 0
        if number in done or (options.only_honest and not its_turn):
            continue
        asked = bench.answered(number, honest.engines[1])
        line: dict[str, Any] = {"text": number, "numerics": bench.numerics}
        if not options.only_honest:
            line["cases"] = bench.dishonest(asked)
        if its_turn:
            line["in_class"] = honest.in_class(asked)
            line["wire8"] = honest.lossy(asked)
            line["between"] = honest.between_classes(asked)
        _keep(results, line)
        for replays in (bench.route, bench.other):
            replays.kept.clear()
        print(f"answer {number + 1} of {options.first + runs}", file=sys.stderr, flush=True)
    if not options.only_honest and not any("refused" in line for line in kept):
        _keep(results, {"refused": refused(runs), "runs": runs})
    return report(results, options.model)


def _keep(results: Path, line: dict[str, Any]) -> None:
    with results.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
