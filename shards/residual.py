"""Which type the residual stream of a model travels in, by measurement.

fp16 takes half the bytes of fp32 and keeps more digits than bf16, but ends at 65 504; some models
have residuals not far from that, on first tokens above all. So the largest is measured on a fixed
set of prompts when a model is imported, and stands in its manifest as a type: whoever has the
manifest knows what the swarm's nodes take by default.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from hearthring.protocol.errors import BadModelFile, EngineUnavailable, ResidualOverflow
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.device import usable_cores
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.families import EMBEDDING
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.tokenizer import Tokenizer

Progress = Callable[[str, int, int], None]

LIMIT: Final = 16_384.0
"""Above it a model gets bf16: other prompts may go up to four times as far."""

PROMPTS: Final = (
    "The old lighthouse keeper had not spoken to anyone for weeks.\n\nThen, one evening, a ship",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + ",
    "1 2 3 5 8 13 21 34 55 89, Привет, 今天天气很好 🔥",
    "\n",
)
"""Prose, code, digits with other scripts, and a lone line end."""
_ROWS: Final = 12
"""Rows of each prompt: massive values show at the first tokens, if at all."""


def residual_type(gguf: GgufFile, progress: Progress) -> Residual:
    """fp32 for weights in F32, else fp16, or bf16 where residuals above ``LIMIT`` are met.

    Raises ``BadModelFile`` for weights whose residuals aren't finite, ``EngineUnavailable`` for
    layers that can't be run.
    """
    names = (name for layer in range(gguf.shape.layers) for name in gguf.layer_names(layer))
    if all(gguf.type_name(name) == "F32" for name in names):
        return Residual.FP32
    return Residual.FP16 if largest_residual(gguf, progress) <= LIMIT else Residual.BF16


def largest_residual(gguf: GgufFile, progress: Progress) -> float:
    """The largest absolute value of the residual at any boundary over ``PROMPTS``, with residuals
    in float32. Raises as ``residual_type``."""
    prompts = _prompts(gguf)
    states = _embedded(gguf, [token for prompt in prompts for token in prompt])
    largest = float(np.abs(states).max())
    try:
        for boundary, found in enumerate(_boundaries(gguf, prompts, states)):
            largest = max(largest, float(np.abs(found).max()))
            progress("measuring", boundary + 1, gguf.shape.layers)
    except ResidualOverflow:
        raise BadModelFile(
            "its weights give values that aren't finite", field=str(gguf.path)
        ) from None
    return largest


def _boundaries(gguf: GgufFile, prompts: list[list[int]], states: F32) -> Iterator[F32]:
    """The residual after each layer: by ggml, which uses the mapped weights, or by torch for what
    ggml can't run, with the weights of one layer in memory at a time."""
    layers, threads = gguf.shape.layers, usable_cores()
    try:
        from hearthring.shards.ggml_engine import GgmlEngine

        whole = GgmlEngine(gguf, 0, layers, Residual.FP32, threads, check=False)
    except EngineUnavailable:
        from hearthring.shards.torch_engine import TorchEngine

        for layer in range(layers):
            engine = TorchEngine(
                gguf.dequantised, gguf.shape, layer, layer + 1, Residual.FP32, threads
            )
            states, _ = engine.forward(_segments(engine, prompts), states)
            yield states
        return
    _, found = whole.forward(_segments(whole, prompts), states, frozenset(range(1, layers + 1)))
    yield from found.values()


def _segments(engine: Engine, prompts: list[list[int]]) -> tuple[Segment, ...]:
    segments = []
    for prompt in prompts:
        path = np.arange(len(prompt), dtype=np.int64)
        rows = (EngineRow(Kind.PROMPT, at, at, path[: at + 1]) for at in range(len(prompt)))
        segments.append(Segment(engine.new_cache(len(prompt)), tuple(rows)))
    return tuple(segments)


def _prompts(gguf: GgufFile) -> list[list[int]]:
    """Ids of the prompts, each with the token that begins a text where there is one; the first
    without it too. Of a file without a usable tokenizer, ids from all over the vocabulary."""
    try:
        tokenizer = Tokenizer.from_gguf(gguf)
    except BadModelFile:
        step = max(1, gguf.shape.vocabulary // _ROWS)
        return [list(range(0, gguf.shape.vocabulary, step))[:_ROWS]]
    first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    plain = [tokenizer.encode(prompt, specials=True) for prompt in PROMPTS]
    found = [plain[0][:_ROWS], *((first + ids)[:_ROWS] for ids in plain)]
    return [ids for ids in found if ids] or [[0]]


def _embedded(gguf: GgufFile, ids: list[int]) -> F32:
    kind, shape, data = gguf.raw(EMBEDDING)
    packed = data.reshape(shape[0], -1)[ids]
    with np.errstate(all="ignore"):
        wide: F32 = dequantize(packed, GGMLQuantizationType(kind)).astype(np.float32, copy=False)
        wide = wide * np.float32(gguf.shape.embedding_scale)
    if not np.isfinite(wide).all():
        raise BadModelFile("an embedding isn't finite", field=str(gguf.path))
    return wide
