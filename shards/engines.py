"""Engines by name."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from hearthring.protocol.errors import BadOption
from hearthring.protocol.tensors import Residual
from hearthring.shards.engine import Engine
from hearthring.shards.gguf_file import GgufFile

if TYPE_CHECKING:
    from hearthring.shards.torch_layer import Load

ENGINES = ("auto", "ggml", "torch")


def load_engine(
    name: str,
    gguf: GgufFile,
    window: tuple[int, int],
    residual: Residual | None,
    threads: int,
    progress: Callable[[int, int], None] | None = None,
    load: "Load | None" = None,
) -> Engine:
    """Load a window of a model file with the engine called ``name``; ``auto`` is torch for now.

    ``residual`` None takes the engine's own default: fp32 for torch, bf16 for ggml. ``load`` stands
    in for the file's tensors. Only the engine that is chosen is imported. Raises ``BadOption`` or
    ``EngineUnavailable``.
    """
    if name not in ENGINES:
        raise BadOption(
            f"there is no {name!r}", field="engine", mend=f"one of {', '.join(ENGINES)}"
        )
    if name == "ggml":
        from hearthring.shards.ggml_check import WideWeights
        from hearthring.shards.ggml_engine import GgmlEngine

        # A method of the file itself changes nothing, and the file's own types need no copy.
        own = load is None or load == gguf.dequantised
        weights = gguf if own or load is None else WideWeights(load, gguf.shape)
        # bf16 until import measures residuals: SmolLM2's reach 24 856, too near to fp16's end.
        return GgmlEngine(weights, *window, residual or Residual.BF16, threads, progress)

    from hearthring.shards.torch_engine import TorchEngine

    return TorchEngine(
        load or gguf.dequantised,
        gguf.shape,
        *window,
        residual or Residual.FP32,
        threads,
        progress,
    )
