"""Engines by name."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from hearthring.protocol.errors import BadOption
from hearthring.protocol.tensors import Residual
from hearthring.shards.device import usable_cores
from hearthring.shards.engine import Engine
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.threads import choose_threads

if TYPE_CHECKING:
    from hearthring.shards.torch_layer import Load

ENGINES = ("auto", "ggml", "torch")
TIMED_LAYERS = 4
"""Layers that the number of threads is tried with where loading them costs nothing."""


def load_engine(
    name: str,
    gguf: GgufFile,
    window: tuple[int, int],
    residual: Residual | None,
    threads: int | None,
    progress: Callable[[int, int], None] | None = None,
    load: "Load | None" = None,
) -> Engine:
    """Load a window of a model file with the engine called ``name``; ``auto`` is torch for now.

    ``residual`` None takes the engine's own default: fp32 for torch, bf16 for ggml; ``threads``
    None as many as measure fastest. ``load`` stands in for the file's tensors. Only the engine that
    is chosen is imported. Raises ``BadOption`` or ``EngineUnavailable``.
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
        kind = residual or Residual.BF16

        def some_ggml(number: int) -> Engine:
            few = window[0], min(window[1], window[0] + TIMED_LAYERS)
            return GgmlEngine(weights, *few, kind, number, check=False)

        threads = threads or choose_threads(some_ggml, usable_cores())
        return GgmlEngine(weights, *window, kind, threads, progress)

    from hearthring.shards.torch_engine import TorchEngine

    tensors, kind = load or gguf.dequantised, residual or Residual.FP32

    def one_torch(number: int) -> Engine:
        return TorchEngine(tensors, gguf.shape, window[0], window[0] + 1, kind, number)

    threads = threads or choose_threads(one_torch, usable_cores())
    return TorchEngine(tensors, gguf.shape, *window, kind, threads, progress)
