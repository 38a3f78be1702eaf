"""How do layers come to nodes that have nothing but an invitation?

Run: python -m bench.layers [--rate 3] [--json FILE]

One node has the file; three others, each with an empty models folder, join by its invitation for a
quarter of the layers each. Midway the only source is killed, then started again at its address.
Then a client with nothing asks, and last a node joins by the invitations of an honest node and of
one that flips a bit in every piece it sends. Bytes are counted on the disks.
"""

import argparse
import os
import signal
import tempfile
import time
from pathlib import Path

from bench.nodes import MACHINE, report
from hearthring import Client
from hearthring.processes import NodeProcess
from hearthring.shards.parts import size_of, window_parts
from hearthring.shards.store import ModelEntry, ModelStore

WINDOWS = ("0:8", "8:15", "15:23")


class Bench:
    """Node processes with a models folder each."""

    def __init__(self, folder: Path, rate: float) -> None:
        self.folder, self.rate = folder, rate
        self.nodes: list[NodeProcess] = []

    def node(self, name: str, window: str, *flags: str, own: bool = True, fault: str = "") -> None:
        """Start a node; its models folder is its own, or the user's."""
        common = ["--layers", window, "--threads", "1", "--engine", "ggml"]
        common += ["--data", str(self.folder / f"{name}-data"), "--upload-rate", str(self.rate)]
        before = os.environ.get("HEARTHRING_MODELS")
        if own:
            os.environ["HEARTHRING_MODELS"] = str(self.folder / name)
        try:
            self.nodes.append(NodeProcess(name, [*common, *flags], fault))
        finally:
            if before is None:
                os.environ.pop("HEARTHRING_MODELS", None)
            else:
                os.environ["HEARTHRING_MODELS"] = before

    def disk(self, name: str) -> int:
        """Bytes of the parts a node has, whole or still coming."""
        files = (self.folder / name).glob("parts/*/*.gguf*")
        return sum(path.stat().st_blocks * 512 for path in files)

    def parts(self, name: str, entry: ModelEntry) -> tuple[str, ...]:
        """The whole parts a node has."""
        return ModelStore(self.folder / name).by_parts(entry.model_id).parts.here()


def main() -> None:
    """Measure, print figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=3.0, help="MiB/s that each node gives away")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    entry = ModelStore().find("smollm2")
    whole = entry.path.stat().st_size
    figures: dict[str, object] = {"machine": MACHINE, "file_bytes": whole}
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), options.rate)
        try:
            run(bench, entry, figures)
        finally:
            for node in bench.nodes:
                node.stop()
    report(figures, options.json)


def run(bench: Bench, entry: ModelEntry, figures: dict[str, object]) -> None:
    """The story that the first lines tell."""
    wanted = {w: window_parts(*map(int, w.split(":"))) for w in WINDOWS}
    sizes = {w: sum(size_of(entry.manifest, p) or 0 for p in wanted[w]) for w in WINDOWS}
    bench.node("source", "23:30", "--listen", "127.0.0.1:0", own=False)
    source = bench.nodes[0].ready()
    begun = time.monotonic()
    for window in WINDOWS:
        bench.node(window, window, "--listen", "127.0.0.1:0", "--join", source)
    while sum(map(bench.disk, WINDOWS)) < sum(sizes.values()) // 3:
        time.sleep(0.05)
    bench.nodes[0].stop(signal.SIGKILL)
    at_kill = sum(map(bench.disk, WINDOWS))
    address = source.split("/")[2]
    time.sleep(1.0)
    bench.node("source", "23:30", "--listen", address, own=False)
    invitations = [node.ready() for node in bench.nodes[1:]]
    figures["seconds_with_kill"] = round(time.monotonic() - begun, 1)
    figures["share_at_kill"] = round(at_kill / sum(sizes.values()), 2)
    for window in WINDOWS:
        assert bench.parts(window, entry) == wanted[window]
        share = bench.disk(window) / entry.path.stat().st_size
        figures[f"share_of_file_{window}"] = round(share, 3)
        figures[f"bytes_beside_layers_{window}"] = bench.disk(window) - sizes[window]
    liar_join = ("--join", invitations[-1])
    bench.node(
        "liar", "0:2", "--listen", "127.0.0.1:0", *liar_join, own=False, fault="corrupt-layers"
    )
    liar = bench.nodes[-1].ready()
    bench.node("last", "0:4", "--listen", "127.0.0.1:0", "--join", liar, "--join", invitations[0])
    bench.nodes[-1].ready()
    figures["refused"] = [line.split()[2:] for line in bench.nodes[-1].seen if "refused" in line]
    assert bench.parts("last", entry) == window_parts(0, 4)
    os.environ["HEARTHRING_MODELS"] = str(bench.folder / "client")
    try:
        with Client([invitations[-1]], threads=1) as client:
            begun = time.monotonic()
            answer = client.generate("The capital of France is", max_tokens=8)
            figures["first_answer_of_a_client_with_nothing_s"] = round(time.monotonic() - begun, 1)
            figures["client_share_of_file"] = round(
                bench.disk("client") / entry.path.stat().st_size, 3
            )
            figures["answer"] = answer.text
    finally:
        del os.environ["HEARTHRING_MODELS"]


if __name__ == "__main__":
    main()
