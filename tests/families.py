"""Tiny seeded models of every family: ``transformers``' own, and the same weights in a GGUF file.

Files are laid out as llama.cpp's converter does it: rotated pairs of ``llama`` side by side,
Gemma's norms with one added, experts in one tensor, factors of Llama 3 and LongRoPE as tensors.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

from hearthring.shards.rope_scaling import llama3_factors
from tests.tiny import MERGES, SPECIALS, tiny_tokens

LAYERS = 3
_SLIDING, _FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Case:
    """A family: llama.cpp's architecture, the config's class, and its arguments."""

    architecture: str
    name: str
    options: dict[str, Any]


def _rope(kind: str = "default", base: float = 10_000.0, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": base, **more}


_LONG = {
    "short_factor": [1.0, 1.1, 1.3, 1.9, 2.7, 3.1],
    "long_factor": [1.0, 1.6, 3.0, 5.5, 9.0, 14.0],
    "partial_rotary_factor": 0.75,
}
CASES: dict[str, Case] = {
    "llama": Case("llama", "Llama", {}),
    "llama3": Case(
        "llama",
        "Llama",
        {
            "rope_parameters": _rope(
                "llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            )
        },
    ),
    "llama-linear": Case("llama", "Llama", {"rope_parameters": _rope("linear", factor=4.0)}),
    "mistral": Case("llama", "Mistral", {"sliding_window": 24}),
    "mixtral": Case("llama", "Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": Case("qwen2", "Qwen2", {"tie_word_embeddings": True}),
    "qwen2-yarn": Case(
        "qwen2",
        "Qwen2",
        {
            "rope_parameters": _rope(
                "yarn", factor=4.0, original_max_position_embeddings=128, beta_fast=8.0
            )
        },
    ),
    "qwen3": Case("qwen3", "Qwen3", {"head_dim": 32}),
    "qwen3moe": Case(
        "qwen3moe",
        "Qwen3Moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
        },
    ),
    "qwen3moe-unnormed": Case(
        "qwen3moe",
        "Qwen3Moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "gemma2": Case(
        "gemma2",
        "Gemma2",
        {
            "sliding_window": 70,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": Case(
        "gemma3",
        "Gemma3Text",
        {
            "sliding_window": 20,
            "query_pre_attn_scalar": 16,
            "layer_types": [_SLIDING, _FULL, _SLIDING],
            "rope_parameters": {
                _SLIDING: _rope(base=1000.0),
                _FULL: _rope("linear", 1e6, factor=8.0),
            },
        },
    ),
    "phi3": Case("phi3", "Phi3", {"sliding_window": 100}),
    "phi3-short": Case(
        "phi3",
        "Phi3",
        {
            "original_max_position_embeddings": 512,
            "rope_parameters": _rope("longrope", **_LONG),
        },
    ),
    "phi3-long": Case(
        "phi3",
        "Phi3",
        {
            "original_max_position_embeddings": 64,
            "rope_parameters": _rope("longrope", **_LONG),
        },
    ),
}


def transformers_model(case: Case, seed: int = 0) -> Any:
    """The model with random weights, large enough for softmaxes and caps to matter."""
    options = {
        "vocab_size": len(tiny_tokens()),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "attn_implementation": "eager",
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = getattr(transformers, case.name + "Config")(**(options | case.options))
    plain = case.name.removesuffix("Text")
    torch.manual_seed(seed)
    model = getattr(transformers, plain + "ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:  # norms begin at one or zero, biases at zero
                weight.add_(torch.randn_like(weight) * 0.2)
            elif "embed" not in name:
                weight.copy_(torch.randn_like(weight) * weight.shape[-1] ** -0.5)
            else:
                weight.copy_(
                    torch.randn_like(weight) * (0.1 if "gemma" in case.architecture else 1)
                )
    return model


def write_family_gguf(path: Path, case: Case, model: Any, quant: str = "F32") -> Path:
    """Write the model's weights to ``path``; ``quant`` is the type of its layers' matrices."""
    writer, config = GGUFWriter(path, case.architecture), model.config
    writer.add_name(f"tiny {case.name}")
    writer.add_block_count(LAYERS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if case.architecture == "gemma3":
        writer.add_sliding_window_pattern([kind == _SLIDING for kind in config.layer_types])
    if case.architecture.startswith("gemma"):
        writer.add_attention_scale(config.query_pre_attn_scalar**-0.5)
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if getattr(config, "num_experts_per_tok", None):
        writer.add_expert_count(model.state_dict()["model.layers.0.mlp.gate.weight"].shape[0])
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_weights_norm(getattr(config, "norm_topk_prob", True))
        writer.add_expert_feed_forward_length(
            getattr(config, "moe_intermediate_size", config.intermediate_size)
        )
    _tokenizer(writer)
    for name, values in (_rope_tensors(writer, config) | _tensors(case, model)).items():
        kind = GGMLQuantizationType.F32
        if values.ndim > 1 and name.startswith("blk.") and "gate_inp" not in name:
            kind = GGMLQuantizationType[quant]
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(case: Case, model: Any) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """All weights by GGUF name."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[case.architecture.upper()], LAYERS)
    tied, found = model.config.tie_word_embeddings, {}
    for name, weight in model.state_dict().items():
        values = weight.detach().numpy().astype(np.float32)
        if tied and name == "lm_head.weight":
            continue
        if name.endswith("mlp.experts.gate_up_proj"):
            blk = f"blk.{name.split('.')[2]}.ffn_"
            found[blk + "gate_exps.weight"], found[blk + "up_exps.weight"] = np.split(values, 2, 1)
            continue
        if name.endswith("mlp.experts.down_proj"):
            found[f"blk.{name.split('.')[2]}.ffn_down_exps.weight"] = values
            continue
        if case.name == "Mixtral":
            name = name.replace(".mlp.", ".block_sparse_moe.")
        if case.architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = values.reshape(-1, 2, model.config.head_dim // 2, values.shape[1])
            values = heads.swapaxes(1, 2).reshape(values.shape)
        if case.architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        found[names.get_name(name, (".weight", ".bias"))] = np.ascontiguousarray(values)
    return found


def _rope_tensors(writer: GGUFWriter, config: Any) -> dict[str, Any]:
    """Write how positions are rotated; what doesn't fit into metadata is returned as tensors."""
    rope = config.rope_parameters
    if _FULL in rope:
        writer.add_rope_freq_base_swa(rope[_SLIDING]["rope_theta"])
        rope = rope[_FULL]
    width = int(config.head_dim * rope.get("partial_rotary_factor", 1.0))
    kind, factor = rope["rope_type"], rope.get("factor", 1.0)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rope["rope_theta"])
    original = rope.get("original_max_position_embeddings")
    if original is not None:
        writer.add_rope_scaling_orig_ctx_len(original)
    if kind == "llama3":
        factors = llama3_factors(
            width,
            rope["rope_theta"],
            factor=factor,
            low=rope["low_freq_factor"],
            high=rope["high_freq_factor"],
            original=original,
        )
        return {"rope_freqs.weight": np.array(factors, np.float32)}
    if kind == "longrope":
        stretch = config.max_position_embeddings / original
        magnitude = (1 + np.log(stretch) / np.log(original)) ** 0.5 if stretch > 1 else 1.0
        writer.add_rope_scaling_attn_factors(float(magnitude))
        return {
            f"rope_factors_{which}.weight": np.array(rope[f"{which}_factor"], np.float32)
            for which in ("short", "long")
        }
    if kind != "default":
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(factor)
        if kind == "yarn":
            writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    return {}


def _tokenizer(writer: GGUFWriter) -> None:
    tokens = tiny_tokens()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(SPECIALS) + [1] * (len(tokens) - len(SPECIALS)))
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
