"""How fast is a step of the ggml engine beside llama.cpp's, by turns in one process?

Where kernels are the same, the two differ by less than one process from the next: by where its
memory happens to lie, and by what else the machine does meanwhile. So both load the model in one
process and take each step one after the other; a process's figure is the median ratio of these
pairs. Several processes are asked, since memory lies elsewhere in each.

Run: python -m bench.pairs MODEL.gguf [--threads 1 2] [--sides low fast] [--cases decode "8 rows"]
     python -m bench.pairs --random Q4_0 --sides packed
"""

import argparse
import statistics
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from bench.engine import CASES, CONTEXT, SIDES, Case, Step, ours, theirs
from bench.random_model import write_random_model

WARM = 8
PAUSE = 0.002
"""Until the other side's threads have stopped spinning, in seconds."""


def pairs(ours: Step, theirs: Step, case: Case, seconds: float) -> list[tuple[float, float]]:
    """Seconds of each side's step, pair by pair, the first side in turns."""
    both = (ours, theirs)
    for step in both:
        for index in range(WARM):
            step(case, case.first + index % case.steps)
    found, end = list[tuple[float, float]](), time.perf_counter() + seconds
    while time.perf_counter() < end:
        took = [0.0, 0.0]
        for which in (0, 1) if len(found) % 2 else (1, 0):
            time.sleep(PAUSE)
            begun = time.perf_counter()
            both[which](case, case.first + len(found) % case.steps)
            took[which] = time.perf_counter() - begun
        found.append((took[0], took[1]))
    return found


def ratio(found: list[tuple[float, float]]) -> float:
    """The median of theirs over ours: above 1, ours is faster."""
    return statistics.median(theirs / ours for ours, theirs in found)


def _work(
    pipe: Connection, path: Path, threads: int, side: str, cases: list[str], seconds: float
) -> None:
    sides = (ours(path, threads, side, CONTEXT), theirs(path, threads, "", CONTEXT))
    pipe.send([ratio(pairs(*sides, CASES[name], seconds)) for name in cases])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--random", metavar="TYPE", help="a 1B Llama of random weights instead")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sides", nargs="+", default=["low"], metavar="SIDE", help=str([*SIDES]))
    near = [name for name, case in CASES.items() if case.first + case.rows <= CONTEXT // 2]
    parser.add_argument("--cases", nargs="+", default=["decode"], choices=near)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="per process and case")
    options = parser.parse_args()
    if (options.model is None) == (options.random is None):
        parser.error("name one model: a file, or --random TYPE")
    spawn = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = options.model
        if options.random:
            path = write_random_model(Path(folder) / f"random-1B.{options.random}", options.random)
        print(f"{path.name}: llama.cpp's time over ours, median of {options.processes} processes")
        for threads in options.threads:
            for side in options.sides:
                found = []
                for _ in range(options.processes):
                    here, there = spawn.Pipe()
                    told = (there, path, threads, side, options.cases, options.seconds)
                    process = spawn.Process(target=_work, args=told)
                    process.start()
                    there.close()  # so that a process's end is noticed
                    found.append(here.recv())
                    process.join()
                for name, ratios in zip(options.cases, zip(*found, strict=True), strict=True):
                    each = " ".join(f"{one:.3f}" for one in sorted(ratios))
                    print(
                        f"  {threads} thread(s)  {side:8} {name:14} "
                        f"{statistics.median(ratios):.3f}   ({each})",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
