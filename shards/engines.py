"""Engines by name."""

from collections.abc import Callable

from hearthring.protocol.errors import BadOption, EngineUnavailable
from hearthring.protocol.tensors import Residual
from hearthring.shards.engine import Engine
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.torch_engine import TorchEngine
from hearthring.shards.torch_layer import Load

ENGINES = ("auto", "ggml", "torch")


def load_engine(
    name: str,
    gguf: GgufFile,
    window: tuple[int, int],
    residual: Residual | None,
    threads: int,
    progress: Callable[[int, int], None] | None = None,
    load: Load | None = None,
) -> Engine:
    """Load a window of a model file with the engine called ``name``.

    ``residual`` None takes the engine's own default. ``load`` stands in for the file's tensors.
    Raises ``BadOption`` or ``EngineUnavailable``.
    """
    if name not in ENGINES:
        raise BadOption(
            f"there is no {name!r}", field="engine", mend=f"one of {', '.join(ENGINES)}"
        )
    if name == "ggml":
        raise EngineUnavailable(
            "this release runs fp32 weights through torch only", field="engine", mend="use auto"
        )
    return TorchEngine(
        load or gguf.dequantised,
        gguf.shape,
        *window,
        residual or Residual.FP32,
        threads,
        progress,
    )
