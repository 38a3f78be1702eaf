"""What do embedding, norm and head take of a client's memory and time?

Each implementation runs in a process of its own, from opening the file on. "private" is what that
process wrote for itself meanwhile, imports included, heads of up to sixteen rows too (Linux:
/proc/self/smaps_rollup); what is mapped from a file and only read doesn't count, as every process
shares it. Times are the best of a second.

Run: python -m bench.client_ends MODEL.gguf [--ends ggml torch] [--threads 1] [--residual bf16]
"""

import argparse
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from hearthring.protocol.tensors import Residual
from hearthring.shards.ends import open_ends
from hearthring.shards.gguf_file import GgufFile

ROWS = (1, 4, 16)
SECONDS = 1.0


def private() -> int:
    """Bytes of memory that this process alone has and wrote to."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")) * 1024


def best(run: Callable[[], object]) -> float:
    """Seconds of the fastest call; the first one, which allocates, doesn't count."""
    run()
    took, ends = [], time.perf_counter() + SECONDS
    while not took or time.perf_counter() < ends:
        begun = time.perf_counter()
        run()
        took.append(time.perf_counter() - begun)
    return min(took)


def measure(pipe: Connection, path: Path, name: str, residual: Residual, threads: int) -> None:
    """Send memory, seconds until the first logits, and seconds by rows."""
    before, begun = private(), time.perf_counter()
    file = GgufFile(path)
    ends = open_ends(name, file, residual, threads)
    states = ends.embed(range(max(ROWS)))
    ends.logits(ends.norm(states[:1]))
    ready = time.perf_counter() - begun

    def head(rows: int) -> Callable[[], np.ndarray]:
        return lambda: ends.logits(ends.norm(states[:rows]))

    times = {rows: best(head(rows)) for rows in ROWS}
    pipe.send((private() - before, ready, times))


def main() -> None:
    """Measure and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--ends", nargs="+", default=["ggml", "torch"], choices=["ggml", "torch"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--residual", type=Residual, default=Residual.BF16)
    options = parser.parse_args()
    spawn = get_context("spawn")
    for name in options.ends:
        here, there = spawn.Pipe()
        arguments = (there, options.model, name, options.residual, options.threads)
        process = spawn.Process(target=measure, args=arguments)
        process.start()
        there.close()  # so that the end of a process that failed is noticed
        memory, ready, times = here.recv()
        process.join()
        heads = ", ".join(f"{rows}: {1000 * s / rows:.2f}" for rows, s in times.items())
        print(
            f"{name:6} private {memory / 2**20:6.0f} MB, first logits after {ready:.2f} s, "
            f"norm and head in ms per row, of {heads}",
            flush=True,
        )


if __name__ == "__main__":
    main()
