"""Engines by name."""

import warnings
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hearthring.protocol.errors import BadOption, EngineUnavailable
from hearthring.protocol.tensors import Residual
from hearthring.shards.device import measure_device, usable_cores
from hearthring.shards.engine import Engine, Window
from hearthring.shards.families import layer_tensors
from hearthring.shards.ggml_policy import F16, FAST, LOW, Q8_0, Policy, policy_of
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.self_check import FP32, QUANTISED, check_layer
from hearthring.shards.threads import choose_threads

if TYPE_CHECKING:
    from hearthring.shards.torch_linear import Load

ENGINES = ("auto", "ggml", "torch")
DEVICES = ("auto", "cpu", "cuda", "mps")
COMPUTES = ("fp32", "fp16", "bf16")
PROMPTS = ("auto", FAST, LOW)
KVS = (F16, Q8_0)
TIMED_LAYERS = 4
"""Layers that the number of threads is tried with where loading them costs nothing."""
FREE_SHARE = 8
"""A part of the free memory, one in so many, is what float32 weights for prompts may take."""
WIDE = frozenset((0, 1, 30))
"""ggml's types of 16 bits and more: F32, F16, BF16."""
PACKABLE = frozenset((2, 12))
"""Those of which ggml has an interleaved layout: Q4_0, Q4_K."""

Progress = Callable[[int, int], None]
Say = Callable[[str], None]


class EngineFallback(UserWarning):
    """Another engine computes than would have, and so in another numerics class."""


def warn_of_fallback(text: str) -> None:
    """A warning, which Python shows once per text unless it is told otherwise."""
    warnings.warn(text, EngineFallback, stacklevel=3)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine computes, where that isn't left to it.

    ``exact`` False gives up that a row has the same bits whatever it is batched with, for speed;
    the class then equals nobody's. So it is on every ``device`` but the CPU, which torch alone
    knows. ``compute`` is the type of its products there: None is fp16 on a device, else fp32.

    The rest is for ggml. ``prompt``: how prompt rows are multiplied, ``low`` by the quantised
    kernels, ``fast`` in float32, of which at most ``prompt_memory`` bytes are kept (None: an
    eighth of the memory that is free); ``auto`` is ``fast`` where ggml has no interleaved layout
    for the weights, whose kernels are as fast.
    ``kv``: type of keys and values. ``repack``: weights in that layout, in memory of their own.
    """

    exact: bool = True
    device: str = "cpu"
    compute: str | None = None
    prompt: str = "auto"
    prompt_memory: int | None = 0
    kv: str = "f16"
    repack: bool = False

    def __post_init__(self) -> None:
        """Raise ``BadOption`` for names that nothing has."""
        if self.device.partition(":")[0] not in DEVICES:
            raise BadOption(
                f"there is no {self.device!r}", field="device", mend=f"one of {', '.join(DEVICES)}"
            )
        for name, value, known in (("prompt", self.prompt, PROMPTS), ("kv", self.kv, KVS)):
            if value not in known:
                raise BadOption(
                    f"there is no {value!r}", field=name, mend=f"one of {', '.join(known)}"
                )
        if self.prompt_memory is not None and self.prompt_memory < 0:
            raise BadOption(f"{self.prompt_memory} bytes", field="prompt_memory", mend="0 or more")
        if self.compute not in (None, *COMPUTES):
            raise BadOption(
                f"there is no {self.compute!r}",
                field="compute",
                mend=f"one of {', '.join(COMPUTES)}",
            )

    @property
    def reference(self) -> bool:
        """Whether torch's invariant engine will do."""
        return self.exact and self.device == "cpu" and self.compute in (None, "fp32")


def load_engine(
    name: str,
    gguf: GgufFile,
    window: Window,
    residual: Residual | None,
    threads: int | None,
    progress: Progress | None = None,
    load: "Load | None" = None,
    options: EngineOptions = EngineOptions(),
    say: Say = warn_of_fallback,
) -> Engine:
    """Load a window of a model file with the engine called ``name``.

    ``auto`` is ggml for quantised weights on the CPU, torch for others and elsewhere, and where
    ggml can't be used, which ``say`` is told (by default it becomes an ``EngineFallback`` warning).
    ``residual`` None takes the engine's own default: fp32 for torch, bf16 for ggml, as a file alone
    doesn't say how large its residual grows (nodes take the manifest's, which is measured at
    import: fp16 for quantised weights where its range suffices); ``threads`` None as many as
    measure fastest. ``load`` stands in for the file's tensors. Only the engine that is chosen is
    imported, and it serves only when its first layer is that of plain arithmetic. Raises
    ``BadOption`` or ``EngineUnavailable``.
    """
    if name not in ENGINES:
        raise BadOption(
            f"there is no {name!r}", field="engine", mend=f"one of {', '.join(ENGINES)}"
        )
    if name == "ggml" and (options.device != "cpu" or options.compute):
        raise BadOption(
            "ggml computes on the CPU and in the weights' own types",
            field="engine",
            mend="use --engine torch for --device and --compute",
        )
    # A method of the file itself changes nothing, and the file's own types need no copy.
    load = None if load == gguf.dequantised else load
    if name == "ggml":
        return _load_ggml(gguf, window, residual, threads, progress, load, options)
    on_cpu = options.device == "cpu" and options.compute is None
    if name == "auto" and on_cpu and is_quantised(gguf, window):
        try:
            return _load_ggml(gguf, window, residual, threads, progress, load, options)
        except EngineUnavailable as error:
            say(f"torch, as ggml can't be used: {error.message}")
    if options.reference:
        return _load_torch(gguf, window, residual, threads, progress, load)
    return _load_fast(gguf, window, residual, threads, progress, load, options)


def options_of(numerics: str) -> EngineOptions:
    """The options in the name of a class of ggml's, so that a replay computes alike."""
    policy = policy_of(numerics)
    return EngineOptions(policy.exact, prompt=policy.prompt, kv=policy.kv, repack=policy.repack)


def is_quantised(gguf: GgufFile, window: Window) -> bool:
    """Whether the window's first layer has weights of less than 16 bits."""
    return any(gguf.kind(name) not in WIDE for name in layer_tensors(gguf.shape, window[0]))


def _load_ggml(
    gguf: GgufFile,
    window: Window,
    residual: Residual | None,
    threads: int | None,
    progress: Progress | None,
    load: "Load | None",
    options: EngineOptions,
) -> Engine:
    from hearthring.shards.ggml_check import WideWeights
    from hearthring.shards.ggml_engine import GgmlEngine

    weights = gguf if load is None else WideWeights(load, gguf.shape)
    kind = residual or Residual.BF16

    policy = _policy(gguf, options)

    def some(number: int) -> Engine:
        few = window[0], min(window[1], window[0] + TIMED_LAYERS)
        return GgmlEngine(weights, *few, kind, number, policy=policy, check=False)

    threads = threads or choose_threads(some, usable_cores())
    return GgmlEngine(weights, *window, kind, threads, progress, policy)


def prompt_policy(options: EngineOptions, kinds: Set[int]) -> str:
    """How prompt rows are multiplied in layers of these types: ``fast`` or ``low``."""
    if options.prompt != "auto":
        return options.prompt
    return LOW if kinds & PACKABLE or not options.exact else FAST


def _policy(gguf: GgufFile, options: EngineOptions) -> Policy:
    """ggml's policy. It hangs on options and types only, so that equal nodes are of one class."""
    prompt = prompt_policy(options, {gguf.kind(name) for name in layer_tensors(gguf.shape, 0)})
    memory = options.prompt_memory
    if memory is None:
        memory = measure_device().free_memory // FREE_SHARE
    return Policy(prompt, memory, options.kv, options.repack, options.exact)


def _load_torch(
    gguf: GgufFile,
    window: Window,
    residual: Residual | None,
    threads: int | None,
    progress: Progress | None,
    load: "Load | None",
) -> Engine:
    from hearthring.shards.ggml_check import WideWeights
    from hearthring.shards.torch_engine import TorchEngine

    tensors, kind = load or gguf.dequantised, residual or Residual.FP32

    def one(number: int, rounding: Residual = kind) -> Engine:
        return TorchEngine(tensors, gguf.shape, window[0], window[0] + 1, rounding, number)

    threads = number = threads or choose_threads(one, usable_cores())
    weights = WideWeights(load, gguf.shape) if load else gguf
    check_layer(weights, window[0], kind, lambda r: one(number, r), "torch", FP32)
    return TorchEngine(tensors, gguf.shape, *window, kind, threads, progress)


def _load_fast(
    gguf: GgufFile,
    window: Window,
    residual: Residual | None,
    threads: int | None,
    progress: Progress | None,
    load: "Load | None",
    options: EngineOptions,
) -> Engine:
    from hearthring.shards.ggml_check import WideWeights
    from hearthring.shards.torch_fast import FastTorchEngine, choose_place

    tensors, kind = load or gguf.dequantised, residual or Residual.FP32
    place, raw = choose_place(options.device, options.compute), None if load else gguf.raw

    def one(number: int, rounding: Residual = kind) -> Engine:
        few = window[0], window[0] + 1
        return FastTorchEngine(tensors, gguf.shape, *few, rounding, number, place=place, raw=raw)

    if threads is None:
        on_cpu = place.device.type == "cpu"
        threads = choose_threads(one, usable_cores()) if on_cpu else 1
    number = threads
    weights = WideWeights(load, gguf.shape) if load else gguf
    tolerance = FP32 if place.compute == "fp32" else QUANTISED
    check_layer(weights, window[0], kind, lambda r: one(number, r), "torch", tolerance, exact=False)
    return FastTorchEngine(
        tensors, gguf.shape, *window, kind, threads, progress, place=place, raw=raw
    )
