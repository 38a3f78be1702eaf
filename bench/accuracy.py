"""How near are logits to those of float32 arithmetic: the ggml engine's, and llama.cpp's?

Texts that the model wrote go through the layers, as prompt rows and then generated ones, and the
head. Exact are the torch engine and ends in float32 on the same file. Ours run with the client's
ends, as in a swarm. "error" is relative, over all logits of a text; "beside llama.cpp" the ratio of
the errors on the same text, its mean and standard error over the texts: any rounding that differs
moves the error of one text by a tenth or more, so few texts tell nothing. "greedy" is the share of
rows whose largest logit is the same.

Run: python -m bench.accuracy MODEL.gguf [--texts 48] [--seed 1] [--threads 1]
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.llama import Llama
from hearthring.client.texts import Text, write_texts
from hearthring.protocol.errors import ResidualOverflow
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.engine import Engine, EngineRow, Segment
from hearthring.shards.engines import EngineOptions, load_engine
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.torch_ends import TorchEnds

SETTINGS = {
    "low": EngineOptions(prompt="low"),
    "fast": EngineOptions(prompt="fast"),
    "low, KV in q8_0": EngineOptions(prompt="low", kv="q8_0"),
    "packed": EngineOptions(prompt="low", repack=True),
}


def logits(engine: Engine, ends: TorchEnds, text: Text) -> F32:
    """Logits of all rows."""
    slots = np.arange(len(text.ids))
    rows = tuple(EngineRow(kind, p, p, slots[: p + 1]) for p, kind in enumerate(text.kinds))
    segment = Segment(engine.new_cache(len(text.ids)), rows)
    out, _ = engine.forward((segment,), ends.embed(list(text.ids)))
    return ends.logits(ends.norm(out))


@dataclass(frozen=True, slots=True)
class Errors:
    """Of each text: the relative error of its logits, and the rows whose largest is the same."""

    errors: F32
    same: F32

    @classmethod
    def of(cls, found: list[F32], exact: list[F32]) -> "Errors":
        """Both may have been made one after the other."""
        pairs = list(zip(found, exact, strict=True))
        errors = [np.linalg.norm(mine - true) / np.linalg.norm(true) for mine, true in pairs]
        same = [(mine.argmax(1) == true.argmax(1)).mean() for mine, true in pairs]
        return cls(np.array(errors, np.float32), np.array(same, np.float32))

    def show(self, name: str, beside: "Errors | None" = None) -> None:
        """Print one line."""
        line = f"{name:24} error {self.errors.mean():.4f}  greedy {self.same.mean():.3f}"
        if beside is not None:
            ratios = self.errors / beside.errors
            margin = ratios.std(ddof=1) / np.sqrt(len(ratios))
            line += f"  beside llama.cpp {ratios.mean():.3f} +- {margin:.3f}"
        print(line, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    file, threads = GgufFile(options.model), options.threads
    window = 0, file.shape.layers

    def load(name: str, residual: Residual, settings: EngineOptions) -> tuple[Engine, TorchEnds]:
        engine = load_engine(name, file, window, residual, threads, options=settings)
        return engine, TorchEnds.open(file, residual, threads)

    writer, ends = load("ggml", Residual.FP32, EngineOptions())
    texts = write_texts(file, writer, ends, options.texts, options.seed)

    def run(name: str, residual: Residual, settings: EngineOptions) -> list[F32]:
        engine, ends = load(name, residual, settings)
        return [logits(engine, ends, text) for text in texts]

    exact = run("torch", Residual.FP32, EngineOptions())
    llama, found = Llama(options.model, threads, 1, 512), list[F32]()
    for text in texts:
        ids, prompt = list(text.ids), text.prompt
        steps = [(0, prompt), *((at, at + 1) for at in range(prompt, len(ids)))]
        rows = list[F32]()
        for at, end in steps:
            llama.step((0,), at, ids[at:end], "all")
            rows += [llama.logits(i) for i in range(end - at)]
        found.append(np.stack(rows))
    theirs = Errors.of(found, exact)
    theirs.show("llama.cpp")
    for name, settings in SETTINGS.items():
        for residual in Residual:
            try:
                Errors.of(run("ggml", residual, settings), exact).show(
                    f"{name}, {residual.value}", theirs
                )
            except ResidualOverflow:
                print(f"{name}, {residual.value}: the residual doesn't fit")


if __name__ == "__main__":
    main()
