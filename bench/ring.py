"""How fast is a loopback ring, beside the same engine in one process, and beside Petals?

Run: python bench/ring.py [--stages 2] [--tokens 96] [--rounds 3] [--json FILE]

Rounds of ring and single process alternate, one thread per process. Petals' 4.7 to 6.8 tokens/s
were measured with the same model in fp32 over two servers of 15 layers on two cores like these;
Petals no longer installs, so that figure stands here and isn't measured again.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from hearthring import Client
from hearthring.processes import NodeProcess
from hearthring.protocol.tensors import Residual
from hearthring.shards.engine import EngineRow, Kind, Segment
from hearthring.shards.store import ModelStore
from hearthring.shards.torch_ends import Ends
from hearthring.shards.torch_engine import TorchEngine

PETALS = (4.7, 6.8)
PROMPT = "The history of the lighthouse begins with open fires built on hilltops. " * 8


class Single:
    """The whole model in this process: greedy decoding without a ring."""

    def __init__(self) -> None:
        gguf = ModelStore().find("smollm2").open()
        self.ends = Ends.open(gguf, Residual.FP32, 1)
        self.engine = TorchEngine(gguf.dequantised, gguf.shape, 0, gguf.shape.layers)

    def decode(self, prompt: list[int], tokens: int) -> tuple[float, float]:
        """Prefill seconds, and decoded tokens per second."""
        cache = self.engine.new_cache(len(prompt) + tokens)
        slots = np.arange(len(prompt) + tokens, dtype=np.int64)
        begun = time.perf_counter()
        rows = tuple(EngineRow(Kind.PROMPT, p, p, slots[: p + 1]) for p in range(len(prompt)))
        states, _ = self.engine.forward((Segment(cache, rows),), self.ends.embed(prompt))
        token = int(self.ends.logits(self.ends.norm(states[-1:])[0]).argmax())
        first = time.perf_counter()
        for p in range(len(prompt), len(prompt) + tokens - 1):
            row = EngineRow(Kind.GENERATED, p, p, slots[: p + 1])
            states, _ = self.engine.forward((Segment(cache, (row,)),), self.ends.embed([token]))
            token = int(self.ends.logits(self.ends.norm(states)[0]).argmax())
        return first - begun, (tokens - 1) / (time.perf_counter() - first)


def main() -> None:
    """Measure, print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    n, layers = options.stages, 30
    windows = [f"{layers * i // n}:{layers * (i + 1) // n}" for i in range(n)]
    single, started = Single(), list[NodeProcess]()
    ring_rates, single_rates, ring_prefill, single_prefill, ready = [], [], [], [], []
    overhead: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            invite = ""
            for place, window in enumerate(windows):
                flags = ["--layers", window, "--listen", "127.0.0.1:0", "--threads", "1"]
                flags += ["--data", f"{folder}/{place}", *(["--join", invite] if invite else [])]
                begun = time.monotonic()
                node = NodeProcess(window, flags)
                started.append(node)
                invite = node.ready() if not invite else (node.ready() and invite)
                ready.append(time.monotonic() - begun)
            with Client([invite], threads=1) as client:
                client.generate(PROMPT, max_tokens=4)
                for _ in range(options.rounds):
                    answer = client.generate(PROMPT, max_tokens=options.tokens)
                    ring_rates.append(answer.timings.decode_tokens_per_s)
                    ring_prefill.append(len(answer.prompt_ids) / answer.timings.prefill_s)
                    step = 1 / answer.timings.decode_tokens_per_s
                    overhead.append(step - sum(answer.timings.stage_compute_s))
                    prefill, rate = single.decode(list(answer.prompt_ids), options.tokens)
                    single_rates.append(rate)
                    single_prefill.append(len(answer.prompt_ids) / prefill)
        finally:
            for node in reversed(started):
                node.stop()
    figures = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "stages": n,
        "ready_s": [round(s, 1) for s in ready],
        "ring_decode_tokens_per_s": round(statistics.median(ring_rates), 2),
        "single_decode_tokens_per_s": round(statistics.median(single_rates), 2),
        "ring_prefill_tokens_per_s": round(statistics.median(ring_prefill), 1),
        "single_prefill_tokens_per_s": round(statistics.median(single_prefill), 1),
        "outside_stages_ms_per_token": round(statistics.median(overhead) * 1e3, 2),
    }
    decode, prefill = (
        figures[f"ring_{what}_tokens_per_s"] / figures[f"single_{what}_tokens_per_s"]
        for what in ("decode", "prefill")
    )
    figures |= {"decode_ratio": round(decode, 3), "prefill_ratio": round(prefill, 3)}
    figures["decode_over_petals_best"] = round(figures["ring_decode_tokens_per_s"] / PETALS[1], 2)
    for name, value in figures.items():
        print(f"{name:<32}{value}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
