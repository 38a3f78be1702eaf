"""How near are logits to those of float32 arithmetic: the ggml engine's, and llama.cpp's?

Three short texts go through the layers, half as prompt rows, half as generated ones, and the head.
Exact are the torch engine and ends in float32 on the same file. Ours run with the client's ends,
as in a swarm. "error" is relative, over all logits; "greedy" the share of rows whose largest logit
is the same.

Run: python bench/accuracy.py MODEL.gguf [--threads 1]
"""

import argparse
from pathlib import Path

import numpy as np
from llama import Llama

from hearthring.protocol.errors import ResidualOverflow
from hearthring.protocol.tensors import Residual
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.engines import EngineOptions, load_engine
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.tokenizer import Tokenizer
from hearthring.shards.torch_ends import TorchEnds

TEXTS = (
    "The sea was calm that morning, and the keeper of the lighthouse had nothing to do but watch "
    "the boats go out. He had lived there for thirty years and knew every one of them by its sail.",
    "def median(values):\n    ordered = sorted(values)\n    middle = len(ordered) // 2\n    if "
    "len(ordered) % 2:\n        return ordered[middle]\n    return (ordered[middle - 1] + ",
    "Question: which planet of the solar system has the most moons, and how many of them were "
    "known in 2023?\nAnswer: Saturn, of whose moons 146 had been confirmed by",
)
SETTINGS = {
    "low": EngineOptions(prompt="low"),
    "fast": EngineOptions(prompt="fast"),
    "low, KV in q8_0": EngineOptions(prompt="low", kv="q8_0"),
    "packed": EngineOptions(prompt="low", repack=True),
}


def logits(engine: Engine, ends: TorchEnds, ids: list[int]) -> np.ndarray:
    """Logits of all rows, the first half of them prompt."""
    slots = np.arange(len(ids))
    half = len(ids) // 2
    rows = tuple(
        EngineRow(Kind.PROMPT if p < half else Kind.GENERATED, p, p, slots[: p + 1])
        for p in range(len(ids))
    )
    segment = Segment(engine.new_cache(len(ids)), rows)
    out, _ = engine.forward((segment,), ends.embed(ids))
    return ends.logits(ends.norm(out))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    file, threads = GgufFile(options.model), options.threads
    window = 0, file.shape.layers
    tokens = [Tokenizer.from_gguf(file).encode(text, specials=False) for text in TEXTS]

    def run(name: str, residual: Residual, settings: EngineOptions) -> list[np.ndarray]:
        engine = load_engine(name, file, window, residual, threads, options=settings)
        ends = TorchEnds.open(file, residual, threads)
        return [logits(engine, ends, ids) for ids in tokens]

    exact = run("torch", Residual.FP32, EngineOptions())
    llama = Llama(options.model, threads, 1, 512)
    theirs = []
    for ids in tokens:
        llama.step((0,), 0, ids, "all")
        theirs.append(np.stack([llama.logits(i) for i in range(len(ids))]))
    show("llama.cpp", theirs, exact)
    for name, settings in SETTINGS.items():
        for residual in Residual:
            try:
                show(f"{name}, {residual.value}", run("ggml", residual, settings), exact)
            except ResidualOverflow:
                print(f"{name}, {residual.value}: the residual doesn't fit")


def show(name: str, found: list[np.ndarray], exact: list[np.ndarray]) -> None:
    """Print one line."""
    errors = [
        float(np.linalg.norm(mine - true) / np.linalg.norm(true))
        for mine, true in zip(found, exact, strict=True)
    ]
    same = [
        float((mine.argmax(1) == true.argmax(1)).mean())
        for mine, true in zip(found, exact, strict=True)
    ]
    listed = " ".join(f"{error:.4f}" for error in errors)
    print(f"{name:24} error {np.mean(errors):.4f} ({listed})  greedy {np.mean(same):.3f}")


if __name__ == "__main__":
    main()
