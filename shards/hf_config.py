"""``config.json`` as the metadata that llama.cpp's converter would write.

Both ways of writing rotary positions are read: ``rope_theta`` with ``rope_scaling``, and the newer
``rope_parameters``. What a configuration leaves out has transformers' default. Numbers that the
model would be computed wrongly without (another activation, scaling of an unknown kind) are
refused; the ranges of the rest are checked when the ``Shape`` is made of them.
"""

from dataclasses import dataclass
from math import log, sqrt
from typing import Any, Final

import numpy as np

from hearthring.protocol.errors import BadModelFile
from hearthring.protocol.tensors import F32
from hearthring.shards.gguf_header import Value
from hearthring.shards.manifest import EARLY_EXIT
from hearthring.shards.rope_scaling import llama3_factors, yarn_magnitude
from hearthring.shards.shape import MAX_COUNT, MAX_LAYERS

ARCHITECTURES: Final = {
    **dict.fromkeys(("llama", "mistral", "mixtral"), "llama"),
    **{"qwen2": "qwen2", "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "phi3": "phi3"},
    **{"gemma2": "gemma2", "gemma3_text": "gemma3", "gemma3": "gemma3"},
}
"""llama.cpp's architecture by ``model_type``."""

_GEMMA3: Final = {
    **{"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26},
    **{"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256},
    **{"max_position_embeddings": 131072, "sliding_window": 4096, "query_pre_attn_scalar": 256},
    **{"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6},
}
_GEMMA2: Final = {
    **{"num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256},
    **{"max_position_embeddings": 8192, "sliding_window": 4096},
    **{"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
}
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    **{"gemma2": _GEMMA2, "gemma3": _GEMMA3, "gemma3_text": _GEMMA3},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2, "rope_theta": 1e6},
    "mistral": {"sliding_window": 4096},
    "qwen2": {"sliding_window": 4096, "max_window_layers": 28},
    "qwen3": {"head_dim": 128, "sliding_window": 4096, "max_window_layers": 28},
    "qwen3_moe": {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
}
_ACTIVATIONS: Final = {"gemma2": "gelu_pytorch_tanh", "gemma3": "gelu_pytorch_tanh"}


@dataclass(frozen=True, slots=True)
class Converted:
    """Metadata by GGUF key, and tensors of rotary factors by GGUF name."""

    metadata: dict[str, Value]
    factors: dict[str, F32]
    tied_head: bool


class _Config:
    """Typed access to the numbers; ``None`` in the file means the default."""

    def __init__(self, found: dict[str, Any], defaults: dict[str, Any], at: str) -> None:
        self._found, self._defaults, self._at = found, defaults, at

    def get(self, key: str) -> Any:
        value = self._found.get(key)
        return self._defaults.get(key) if value is None and key not in self._found else value

    def count(self, key: str, default: int | None = None) -> int:
        value = self.get(key)
        value = default if value is None else value
        if type(value) is not int or not 0 <= value <= MAX_COUNT:
            raise self.bad(key, f"{value!r:.40} isn't an integer from 0 to {MAX_COUNT}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value: Any = self.get(key)
        value = default if value is None else value
        if type(value) not in (int, float) or not 1e-30 < abs(value) < 1e30:
            raise self.bad(key, f"{value!r:.40} isn't a number within bounds")
        return float(value)

    def reals(self, key: str) -> F32:
        value = self.get(key)
        plain = isinstance(value, list) and 0 < len(value) <= MAX_COUNT
        if not plain or not all(type(item) in (int, float) and abs(item) < 1e30 for item in value):
            raise self.bad(key, "it isn't a list of numbers")
        return np.array(value, np.float32)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.bad(key, f"{value!r:.40} isn't true or false")
        return value

    def part(self, key: str) -> "_Config | None":
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.bad(key, "it isn't an object")
        return None if value is None else _Config(value, {}, f"{self._at}{key}.")

    def bad(self, key: str, reason: str) -> BadModelFile:
        return BadModelFile(f"{self._at}{key}: {reason}")


def convert_config(found: dict[str, Any]) -> Converted:
    """The metadata of ``config.json``. Raises ``BadModelFile`` naming the number."""
    kind = found.get("model_type")
    architecture = ARCHITECTURES.get(kind) if isinstance(kind, str) else None
    if not isinstance(kind, str) or architecture is None:
        raise BadModelFile(
            f"model type {kind!r:.80} isn't supported, only {', '.join(ARCHITECTURES)}"
        )
    if kind == "gemma3":  # the part that reads; its tying is said outside
        inner = found.get("text_config")
        if not isinstance(inner, dict):
            raise BadModelFile("text_config is missing")
        found = {"tie_word_embeddings": found.get("tie_word_embeddings"), **inner}
    config = _Config(found, _DEFAULTS.get(kind, {}), "")
    wanted = _ACTIVATIONS.get(architecture, "silu")
    for key in ("hidden_act", "hidden_activation"):
        if config.get(key) not in (None, wanted):
            raise config.bad(key, f"activation {config.get(key)!r:.40} isn't supported")
    metadata: dict[str, Value] = {"general.architecture": architecture}
    factors: dict[str, F32] = {}
    for key, value in (
        *_counts(config, kind),
        *_attention(config, kind),
        *_windows(config, kind),
        *_rope(config, kind, factors),
    ):
        metadata[f"{architecture}.{key}"] = value
    if config.get("early_exit") is not None:
        metadata[EARLY_EXIT] = config.count("early_exit")
    tied = config.get("tie_word_embeddings")
    gemma = architecture.startswith("gemma")
    return Converted(
        metadata, factors, gemma if tied is None else config.flag("tie_word_embeddings")
    )


def _head_width(config: _Config) -> int:
    heads = config.count("num_attention_heads")
    return config.count("head_dim", config.count("hidden_size") // max(heads, 1))


def _counts(config: _Config, kind: str) -> list[tuple[str, Value]]:
    heads = config.count("num_attention_heads")
    found: list[tuple[str, Value]] = [
        ("block_count", config.count("num_hidden_layers")),
        ("context_length", config.count("max_position_embeddings")),
        ("embedding_length", config.count("hidden_size")),
        ("feed_forward_length", config.count("intermediate_size")),
        ("attention.head_count", heads),
        ("attention.head_count_kv", config.count("num_key_value_heads", heads)),
        ("attention.layer_norm_rms_epsilon", config.real("rms_norm_eps", 1e-6)),
        ("attention.key_length", _head_width(config)),
        ("attention.value_length", _head_width(config)),
    ]
    if kind == "mixtral" or kind == "qwen3_moe":
        old = "num_experts" if kind == "qwen3_moe" else "num_local_experts"
        found += [
            (
                "expert_count",
                config.count("num_local_experts", config.count(old))
                if config.get("num_local_experts") is not None
                else config.count(old),
            ),
            ("expert_used_count", config.count("num_experts_per_tok")),
        ]
    if kind == "qwen3_moe":
        if config.get("mlp_only_layers") or config.count("decoder_sparse_step", 1) != 1:
            raise config.bad("mlp_only_layers", "layers without experts aren't supported")
        found.append(("expert_feed_forward_length", config.count("moe_intermediate_size")))
        if not config.flag("norm_topk_prob"):
            found.append(("expert_weights_norm", False))
    return found


def _attention(config: _Config, kind: str) -> list[tuple[str, Value]]:
    found: list[tuple[str, Value]] = []
    if not kind.startswith("gemma"):
        return found
    if config.get("use_bidirectional_attention"):
        raise config.bad("use_bidirectional_attention", "this isn't supported")
    scalar = config.real("query_pre_attn_scalar")
    if scalar != _head_width(config):
        found.append(("attention.scale", abs(scalar) ** -0.5))
    for key, name in (
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
    ):
        if config.get(key) is not None:
            found.append((name, config.real(key)))
        elif kind == "gemma2":
            raise config.bad(key, "a Gemma 2 without it isn't supported")
    return found


def _windows(config: _Config, kind: str) -> list[tuple[str, Value]]:
    layers = config.count("num_hidden_layers")
    none: list[tuple[str, Value]] = [("attention.sliding_window", 0)]
    if kind == "llama" or config.get("sliding_window") is None or layers > MAX_LAYERS:
        return none if kind.startswith("gemma") else []
    if kind.startswith("qwen") and not config.flag("use_sliding_window"):
        return []
    window = config.count("sliding_window")
    types = config.get("layer_types")
    if types is not None:
        known = ("sliding_attention", "full_attention")
        if not isinstance(types, list) or len(types) != layers or not set(types) <= set(known):
            raise config.bad("layer_types", "it isn't one of sliding and full for each layer")
        sliding = [one == known[0] for one in types]
    elif kind == "gemma2":
        sliding = [layer % 2 == 0 for layer in range(layers)]
    elif kind.startswith("gemma3"):
        every = config.count("sliding_window_pattern", config.count("_sliding_window_pattern", 6))
        sliding = [(layer + 1) % max(every, 1) != 0 for layer in range(layers)]
    elif kind.startswith("qwen"):
        sliding = [layer >= config.count("max_window_layers", 28) for layer in range(layers)]
    else:
        sliding = [True] * layers
    if not any(sliding):
        return none
    return [
        ("attention.sliding_window", window),
        ("attention.sliding_window_pattern", np.array(sliding, np.uint32)),
    ]


def _rope(config: _Config, kind: str, factors: dict[str, F32]) -> list[tuple[str, Value]]:
    """Keys of the rotation; tensors of factors are put into ``factors``."""
    new = config.part("rope_parameters")
    full = new and (new.part("full_attention") or new)
    theta = config.real("rope_theta", 10_000.0)
    theta = full.real("rope_theta", theta) if full else theta
    width = _head_width(config)
    partial = (full and full.get("partial_rotary_factor")) or config.get("partial_rotary_factor")
    if partial is not None:
        holder = full if full and full.get("partial_rotary_factor") is not None else config
        width = int(width * holder.real("partial_rotary_factor"))
    found: list[tuple[str, Value]] = [("rope.freq_base", theta), ("rope.dimension_count", width)]
    if kind.startswith("gemma3"):
        local = new and new.part("sliding_attention")
        base = local.real("rope_theta", 10_000.0) if local else config.real("rope_local_base_freq")
        found.append(("rope.freq_base_swa", base))
    scaling = full or config.part("rope_scaling")
    if scaling is None:
        return found
    named = scaling.get("rope_type") or scaling.get("type")
    match named:
        case None | "default":
            return found
        case "linear":
            return [*found, *_named("linear"), ("rope.scaling.factor", scaling.real("factor"))]
        case "llama3":
            factors["rope_freqs.weight"] = np.array(
                _llama3(config, scaling, width, theta), np.float32
            )
            return found
        case "yarn":
            return [*found, *_yarn(config, scaling)]
        case "longrope" | "su":
            return [*found, *_longrope(config, scaling, factors)]
    raise scaling.bad("rope_type", f"scaling by {named!r:.40} isn't supported")


def _named(kind: str) -> list[tuple[str, Value]]:
    return [("rope.scaling.type", kind)]


def _llama3(config: _Config, scaling: _Config, width: int, theta: float) -> tuple[float, ...]:
    low, high = scaling.real("low_freq_factor", 1.0), scaling.real("high_freq_factor", 4.0)
    original = scaling.count("original_max_position_embeddings", 8192)
    if not 0 < low < high or not 2 <= width <= 1 << 20 or theta <= 1 or not original:
        raise scaling.bad("low_freq_factor", "these factors don't fit each other")
    return llama3_factors(
        width, theta, factor=scaling.real("factor", 8.0), low=low, high=high, original=original
    )


def _yarn(config: _Config, scaling: _Config) -> list[tuple[str, Value]]:
    factor = scaling.real("factor")
    if scaling.get("truncate") is False or scaling.get("mscale_all_dim") or scaling.get("mscale"):
        raise scaling.bad("truncate", "this kind of YaRN isn't supported")
    context = config.count("max_position_embeddings")
    original = scaling.count("original_max_position_embeddings", context)
    found: list[tuple[str, Value]] = [
        *_named("yarn"),
        ("rope.scaling.factor", factor),
        ("rope.scaling.original_context_length", original),
        ("rope.scaling.yarn_beta_fast", scaling.real("beta_fast", 32.0)),
        ("rope.scaling.yarn_beta_slow", scaling.real("beta_slow", 1.0)),
    ]
    if scaling.get("attention_factor") is not None:
        magnitude = scaling.real("attention_factor") / yarn_magnitude(factor)
        found.append(("rope.scaling.yarn_attn_factor", magnitude))
    return found


def _longrope(
    config: _Config, scaling: _Config, factors: dict[str, F32]
) -> list[tuple[str, Value]]:
    context = config.count("max_position_embeddings")
    inner = scaling.get("original_max_position_embeddings")
    holder = config if inner is None else scaling
    original = holder.count("original_max_position_embeddings")
    for name in ("long", "short"):
        factors[f"rope_factors_{name}.weight"] = scaling.reals(f"{name}_factor")
    scale = context / original if original else 0.0
    if original < 2 or scale <= 0:
        raise config.bad("original_max_position_embeddings", "it is out of range")
    magnitude = sqrt(1 + log(scale) / log(original)) if scale > 1 else 1.0
    if scaling.get("attention_factor") is not None:
        magnitude = scaling.real("attention_factor")
    return [
        ("rope.scaling.original_context_length", original),
        ("rope.scaling.attn_factor", magnitude),
    ]
