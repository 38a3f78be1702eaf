"""What memory does a node take for itself, and what takes it?

Run: python -m bench.memory [--engine ggml] [--tokens 64] [--json FILE] [-- NODE FLAGS ...]

Starts a real node with the whole of SmolLM2, runs one session of a client in this process, and
looks at every process of the node (Linux: /proc/PID/smaps). Private memory (USS) is what would be
free again if the process ended. Weights that are mapped from the model's file, and the keys and
values of the session, are counted apart: the goals are 650 MB for all processes and 150 MB for
the one that holds the engine, beside both (Petals: 532 MB per server, and fp32 weights).

What other processes on the machine map too isn't private, so the column `shared` and the figures
`alone` say what it would be if nothing else ran: every library a process touches, counted once.
"""

import argparse
import json
import re
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench.nodes import MACHINE
from hearthring import Client
from hearthring.processes import NodeProcess
from hearthring.shards.shape import Shape
from hearthring.shards.store import ModelStore

GOALS = {"engine process": 150.0, "all processes": 650.0}
PROMPT = "The history of the lighthouse begins with open fires built on hilltops. " * 8
HEADER = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+\s*(.*)$")
KINDS = ("heap", "stacks", "libraries", "files", "weights")


@dataclass(slots=True)
class Usage:
    """Private kilobytes of a process by kind of map, and all it touches of files by path."""

    name: str
    kinds: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)

    @property
    def own(self) -> int:
        """All of it but the weights."""
        return self.kinds.total() - self.kinds["weights"]

    @property
    def anonymous(self) -> int:
        """What no file stands behind."""
        return self.kinds["heap"] + self.kinds["stacks"]


def usage(pid: int, weights: Path) -> Usage:
    """Read the maps of a process. Raises ``OSError`` when it is gone."""
    root = Path(f"/proc/{pid}")
    words = (root / "cmdline").read_bytes().decode(errors="replace").split("\0")
    found = Usage("directory" if "directory_process" in " ".join(words) else Path(words[0]).name)
    kind = file = ""
    for line in (root / "smaps").read_text().splitlines():
        if header := HEADER.match(line):
            file = header[1]
            kind = kind_of(file, weights)
        elif line.startswith(("Private_Clean:", "Private_Dirty:")):
            found.kinds[kind] += int(line.split()[1])
        elif line.startswith("Rss:") and kind in ("libraries", "files"):
            found.files[file] += int(line.split()[1])
    return found


def alone(processes: list[Usage]) -> float:
    """Megabytes that these processes would have for themselves if no others ran."""
    files: Counter[str] = Counter()
    for one in processes:
        files |= one.files
    return (sum(one.anonymous for one in processes) + files.total()) / 1024


def kind_of(file: str, weights: Path) -> str:
    """What a map is for, by the file behind it."""
    if not file or file == "[heap]" or file.startswith("[anon"):
        return "heap"
    if file.startswith("["):
        return "stacks"
    if file == str(weights):
        return "weights"
    return "libraries" if ".so" in file or "/bin/" in file else "files"


def descendants(pid: int) -> list[int]:
    """A process and all its children's children."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


class Watch:
    """Samples the node's processes; keeps the sample with the largest sum."""

    def __init__(self, pid: int, weights: Path) -> None:
        self._pid, self._weights = pid, weights
        self._stop = threading.Event()
        self.peak: list[Usage] = []
        self._thread = threading.Thread(target=self._run)

    def sample(self) -> list[Usage]:
        """Now; the node's own process first."""
        found = [usage(pid, self._weights) for pid in descendants(self._pid)]
        found[0].name = "engine"
        return found

    def __enter__(self) -> "Watch":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; the peak stays."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.3):
            now = self.sample()
            if sum(u.own for u in now) >= sum(u.own for u in self.peak):
                self.peak = now


def kv_megabytes(shape: Shape, rows: int, engine: str) -> float:
    """Keys and values of one session's rows: fp16 with ggml, fp32 with torch."""
    width = 2 if engine == "ggml" else 4
    return 2 * width * shape.layers * shape.kv_heads * shape.head_width * rows / 2**20


def measure(engine: str, tokens: int, more: list[str]) -> dict[str, object]:
    """Run the node and the session; returns the figures that were printed."""
    entry = ModelStore().find("smollm2")
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--engine", engine, "--listen", "127.0.0.1:0", "--threads", "1"]
        node = NodeProcess("node", [*flags, "--data", folder, *more])
        try:
            invitation = node.ready()
            watch = Watch(node.process.pid, entry.path.resolve())
            idle = watch.sample()
            with watch, Client([invitation], threads=1) as client:
                answer = client.generate(PROMPT, max_tokens=tokens)
        finally:
            node.stop()
    rows = len(answer.prompt_ids) + len(answer.token_ids)
    kv = kv_megabytes(entry.manifest.shape, rows, engine)
    print(f"{'MB':<11}{'USS':>7}" + "".join(f"{kind:>10}" for kind in (*KINDS, "shared")))
    for one in watch.peak:
        private = [one.kinds[kind] for kind in KINDS]
        shared = one.anonymous + one.files.total() - one.own
        figures = "".join(f"{figure / 1024:10.1f}" for figure in (*private, shared))
        print(f"{one.name:<11}{one.own / 1024:7.1f}{figures}")
        for file, kilobytes in one.files.most_common(4):
            print(f"{'':<18}{kilobytes / 1024:8.1f} {Path(file).name}")
    result: dict[str, object] = {
        "machine": MACHINE,
        "engine": engine,
        "flags": more,
        "session_rows": rows,
        "kv_mb": round(kv, 1),
        "idle_all_processes_mb": round(sum(one.own for one in idle) / 1024, 1),
        "processes": {one.name: round(one.own / 1024, 1) for one in watch.peak},
    }
    for name, chosen in (("engine process", watch.peak[:1]), ("all processes", watch.peak)):
        goal, key = GOALS[name], name.replace(" ", "_")
        private, most = sum(one.own for one in chosen) / 1024 - kv, alone(chosen) - kv
        print(
            f"{name:<15} {private:6.1f} MB private, {most:6.1f} alone: {private / goal:.2f} and "
            f"{most / goal:.2f} of the goal ({kv:.1f} MB of keys and values not counted)"
        )
        result |= {f"{key}_mb": round(private, 1), f"{key}_alone_mb": round(most, 1)}
        result[f"{key}_of_goal"] = round(private / goal, 2)
    return result


def main() -> None:
    """Measure, print the table and the ratios to the goals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="ggml")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    parser.add_argument("more", nargs="*", help="further flags of the node")
    options = parser.parse_args()
    figures = measure(options.engine, options.tokens, options.more)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
