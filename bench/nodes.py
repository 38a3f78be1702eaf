"""What the ring's benchmarks share: rings of real processes, and the same engine without one."""

import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hearthring.processes import NodeProcess
from hearthring.protocol.tensors import Residual
from hearthring.shards.engine import EngineRow, Kind, Segment
from hearthring.shards.engines import load_engine
from hearthring.shards.store import ModelStore
from hearthring.shards.torch_ends import Ends

LAYERS = 30
MACHINE = f"{platform.machine()}, {os.cpu_count()} cores"
STORY = "The history of the lighthouse begins with open fires built on hilltops. "


@contextmanager
def ring(stages: int, engine: str) -> Iterator[str]:
    """Nodes with one thread each, of about as many layers; yields an invitation."""
    cuts = [LAYERS * i // stages for i in range(stages + 1)]
    started, invite = list[NodeProcess](), ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            for place in range(stages):
                window = f"{cuts[place]}:{cuts[place + 1]}"
                flags = ["--layers", window, "--listen", "127.0.0.1:0", "--threads", "1"]
                flags += ["--engine", engine, "--data", f"{folder}/{place}"]
                node = NodeProcess(window, [*flags, *(["--join", invite] if invite else [])])
                started.append(node)
                invite = node.ready() if not invite else (node.ready() and invite)
            yield invite
        finally:
            for node in reversed(started):
                node.stop()


class Single:
    """The whole model in this process: greedy decoding without a ring."""

    def __init__(self, engine: str) -> None:
        gguf = ModelStore().find("smollm2").open()
        residual = Residual.FP32 if engine == "torch" else Residual.BF16
        self.engine = load_engine(engine, gguf, (0, LAYERS), residual, 1)
        self.ends = Ends.open(gguf, residual, 1)

    def decode(self, prompt: list[int], tokens: int) -> tuple[float, float, float]:
        """Prefill seconds, seconds per decoded token, and of those the engine's."""
        rows = len(prompt) + tokens
        cache, slots, inside = self.engine.new_cache(rows), np.arange(rows, dtype=np.int64), 0.0
        begun = time.perf_counter()
        prefill = tuple(EngineRow(Kind.PROMPT, p, p, slots[: p + 1]) for p in range(len(prompt)))
        states, _ = self.engine.forward((Segment(cache, prefill),), self.ends.embed(prompt))
        token = int(self.ends.logits(self.ends.norm(states[-1:])[0]).argmax())
        first = time.perf_counter()
        for p in range(len(prompt), rows - 1):
            row = EngineRow(Kind.GENERATED, p, p, slots[: p + 1])
            states = self.ends.embed([token])
            before = time.perf_counter()
            states, _ = self.engine.forward((Segment(cache, (row,)),), states)
            inside += time.perf_counter() - before
            token = int(self.ends.logits(self.ends.norm(states)[0]).argmax())
        spent = time.perf_counter() - first
        return first - begun, spent / (tokens - 1), inside / (tokens - 1)


def report(figures: dict[str, object], path: Path | None) -> None:
    """Print figures, and keep them as JSON if asked."""
    for name, value in figures.items():
        print(f"{name:<36}{value}")
    if path:
        path.write_text(json.dumps(figures, indent=1) + "\n")
