"""How fast is the ggml engine beside llama.cpp, on the same file, threads and library?

Every side runs in a process of its own and they take turns, one measurement at a time; each figure
is the best step of all rounds, since on a shared machine only delays are random. llama.cpp is
called through its C API (``llama_decode``, its defaults), without server or sampler. All cases go
from token ids to logits: of the last row in a prompt, of every row else. Ours has the ends of
``ends.py``, which are ggml graphs too. "load" is the time until a side is ready in a process of its
own, its imports included, with the file in memory already.

Run: python -m bench.engine MODEL.gguf [--threads 1 2] [--rounds 3] [--sides low fast] [--json]
     python -m bench.engine MODEL.gguf --cases "decode at 8000"
     python -m bench.engine --random Q4_0 --sides packed --cases decode "8 sessions"
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

TOKEN, SEQUENCES, FAR = 1743, 10, 640
CONTEXT, LONG = 1024, 8192
"""Slots per sequence, and with a case further away."""
FILL = 256
"""Rows of a step that fills the long sequence: its last one may end behind the case's position."""


@dataclass(frozen=True)
class Case:
    """``rows`` rows from ``first`` on, in each of the sequences, ``steps`` times."""

    rows: int
    first: int
    steps: int
    sequences: tuple[int, ...] = (0,)
    prompt: bool = False


CASES = {
    "decode": Case(1, 16, 32),
    "decode at 640": Case(1, FAR, 12, (1,)),
    "decode at 2000": Case(1, 2000, 8, (1,)),
    "decode at 8000": Case(1, 8000, 6, (1,)),
    "8 rows": Case(8, 16, 6),
    "16 rows": Case(16, 16, 4),
    "8 rows at 640": Case(8, FAR, 4, (1,)),
    "8 sessions": Case(1, 16, 6, tuple(range(2, 10))),
    "prefill 512": Case(512, 0, 1, prompt=True),
}
SIDES = {
    "low": {"prompt": "low"},
    "fast": {"prompt": "fast"},
    "kept": {"prompt": "fast", "prompt_memory": 1 << 40},
    "packed": {"prompt": "low", "repack": True},
    "inexact": {"exact": False},
}
"""Our settings by name, ``-fp16`` or ``-fp32`` behind them for another residual than bf16."""

Step = Callable[[Case, int], None]
"""Run a case at a position."""


def ours(path: Path, threads: int, side: str, context: int) -> Step:
    """The ggml engine over all layers."""
    import numpy as np

    from bench.ends import GgmlEnds
    from hearthring.protocol.tensors import Residual
    from hearthring.shards.engine import EngineRow, Kind, Segment
    from hearthring.shards.engines import EngineOptions, load_engine
    from hearthring.shards.gguf_file import GgufFile

    name, _, residual = side.partition("-")
    kind = Residual(residual or "bf16")
    file = GgufFile(path)
    options = EngineOptions(**SIDES[name])
    engine = load_engine("ggml", file, (0, file.shape.layers), kind, threads, options=options)
    ends = GgmlEnds(file, kind, threads, options.repack)
    caches = [engine.new_cache(context) for _ in range(SEQUENCES)]
    slots = np.arange(context)

    def step(case: Case, first: int) -> None:
        what = Kind.PROMPT if case.prompt else Kind.GENERATED
        rows = tuple(EngineRow(what, p, p, slots[: p + 1]) for p in range(first, first + case.rows))
        segments = tuple(Segment(caches[sequence], rows) for sequence in case.sequences)
        states = ends.embed([TOKEN] * (case.rows * len(segments)))
        out, _ = engine.forward(segments, states)
        ends.logits(out[-1:] if case.prompt else out)

    return step


def theirs(path: Path, threads: int, side: str, context: int) -> Step:
    """llama.cpp."""
    from bench.llama import Llama

    model = Llama(path, threads, SEQUENCES, context)

    def step(case: Case, first: int) -> None:
        head = "last" if case.prompt else "all"
        model.step(case.sequences, first, [TOKEN] * case.rows, head)

    return step


def _work(pipe: Connection, path: Path, threads: int, side: str, cases: list[str]) -> None:
    begun = time.perf_counter()
    far = furthest(cases)
    context = LONG if far > FAR else CONTEXT
    step = (theirs if side == "llama.cpp" else ours)(path, threads, side, context)
    pipe.send(time.perf_counter() - begun)
    step(Case(64, 0, 1, prompt=True), 0)
    for first in range(0, far, FILL):
        step(Case(FILL, 0, 1, (1,), True), first)
    for sequence in range(2, SEQUENCES):
        step(Case(16, 0, 1, (sequence,), True), 0)
    while (name := pipe.recv()) is not None:
        case = CASES[name]
        step(case, case.first)
        took = []
        for index in range(case.steps):
            begun = time.perf_counter()
            step(case, case.first + (index if case.rows == 1 else 0))
            took.append(time.perf_counter() - begun)
        pipe.send(min(took))


def furthest(cases: list[str]) -> int:
    """The position at which the cases of the long sequence begin."""
    return max((CASES[name].first for name in cases if CASES[name].sequences == (1,)), default=0)


def compare(
    path: Path, threads: int, rounds: int, sides: list[str], cases: list[str]
) -> dict[str, dict[str, float]]:
    """Best seconds per step of each side, by case, and load time."""
    with path.open("rb") as file:  # or the first side alone would wait for the disk
        while file.read(1 << 24):
            pass
    spawn = get_context("spawn")
    best: dict[str, dict[str, float]] = {name: {} for name in ("load", *cases)}
    workers = []
    for side in (*sides, "llama.cpp"):
        here, there = spawn.Pipe()
        process = spawn.Process(target=_work, args=(there, path, threads, side, cases))
        process.start()
        there.close()  # so that a worker's end is noticed
        best["load"][side] = here.recv()
        workers.append((side, here, process))
    for number in range(rounds):
        for case in cases:
            for side, pipe, _ in workers if number % 2 else workers[::-1]:
                time.sleep(0.02)  # until the other side's threads have stopped spinning
                pipe.send(case)
                took = pipe.recv()
                best[case][side] = min(took, best[case].get(side, took))
    for _, pipe, process in workers:
        pipe.send(None)
        process.join()
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--random", metavar="TYPE", help="a 1B Llama of random weights instead")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=["low", "fast"])
    usual = [name for name, case in CASES.items() if case.first <= FAR]
    parser.add_argument(
        "--cases",
        nargs="+",
        default=usual,
        choices=list(CASES),
        help="default: all but the longest",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = parser.parse_args()
    if len({CASES[name].first for name in options.cases if CASES[name].sequences == (1,)}) > 1:
        parser.error("cases at different far positions need a run each")
    with tempfile.TemporaryDirectory() as folder:
        path = options.model
        if options.random:
            from bench.random_model import write_random_model

            path = write_random_model(Path(folder) / f"random-1B.{options.random}", options.random)
        seconds = {}
        for n in options.threads:
            found = compare(path, n, options.rounds, options.sides, options.cases)
            seconds[f"{n} threads"] = found
            if not options.json:
                show(path.name, n, found, options.sides)
    if options.json:
        machine = f"{platform.machine()} {platform.system()}, python {platform.python_version()}"
        json.dump({"machine": machine, "file": path.name, "seconds": seconds}, sys.stdout)


def show(name: str, threads: int, found: dict[str, dict[str, float]], sides: list[str]) -> None:
    """Print one table."""
    print(f"{name}, {threads} thread(s): rows/s (load: s); ratio above 1: ours is faster")
    for case, seconds in found.items():
        rows = CASES[case].rows * len(CASES[case].sequences) if case in CASES else 0
        rate = {side: rows / value if rows else value for side, value in seconds.items()}
        line = f"  {case:14} llama.cpp {rate['llama.cpp']:8.2f}"
        for side in sides:
            line += f"   {side} {rate[side]:8.2f} {seconds['llama.cpp'] / seconds[side]:5.2f}"
        print(line)
    one, many = found.get("decode"), found.get("8 sessions")
    if one and many:
        gains = [f"{side} {8 * one[side] / many[side]:.2f}" for side in ("llama.cpp", *sides)]
        print(f"  8 sessions against one, rows/s: {', '.join(gains)}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
