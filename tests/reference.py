"""SmolLM2 in ``transformers``, fp32, on the weights of the GGUF: the oracle."""

from typing import Any

import numpy as np
import torch

from hearthring.shards.gguf_file import GgufFile

NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
PROMPTS = {
    "chat": "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
    "story": "<|im_start|>user\nTell me about a small house.<|im_end|>\n<|im_start|>assistant\n",
    "code": "def fibonacci(n):\n    ",
    "more code": "import json\n\ndef read_config(path):\n    with open(path) as f:\n",
    "language": "<|im_start|>user\nEcris une phrase sur la mer.<|im_end|>\n<|im_start|>assistant\n",
    "digits": "1 2 3 5 8 13 21 34 55 89 144",
    "edit": (
        "<|im_start|>user\nCorrect the spelling: The wether was verry nice, so we went to the "
        "beech and swimmed untill evning.<|im_end|>\n<|im_start|>assistant\n"
    ),
    "prose": "The old lighthouse keeper had not spoken to anyone for",
}


def transformers_model(gguf: GgufFile) -> Any:
    """``LlamaForCausalLM`` with the file's dequantised weights."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    shape = gguf.shape
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_width,
        rms_norm_eps=shape.norm_epsilon,
        rope_theta=shape.rope_base,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_base},
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied_head,
        attn_implementation="eager",
    )
    torch.set_num_threads(1)
    with torch.device("meta"):  # no time for random weights
        model = LlamaForCausalLM(config).eval()
    model.to_empty(device="cpu")
    model.model.rotary_emb = LlamaRotaryEmbedding(config)  # its frequencies aren't in the state
    state = model.state_dict()
    state["model.embed_tokens.weight"].copy_(_tensor(gguf.dequantised("token_embd.weight")))
    state["model.norm.weight"].copy_(_tensor(gguf.dequantised("output_norm.weight")))
    for layer in range(shape.layers):
        for ours, theirs in NAMES.items():
            weight = gguf.dequantised(f"blk.{layer}.{ours}.weight")
            if ours in ("attn_q", "attn_k"):
                weight = _halves(weight, shape.head_width)
            state[f"model.layers.{layer}.{theirs}.weight"].copy_(_tensor(weight))
    model.tie_weights()
    return model


def greedy(model: Any, prompt_ids: list[int], tokens: int, ends: frozenset[int]) -> list[int]:
    """Greedy ids, a final end-of-sequence token included."""
    out = model.generate(
        torch.tensor([prompt_ids]),
        attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=sorted(ends) or None,
        pad_token_id=0,
    )
    return [int(token) for token in out[0, len(prompt_ids) :]]


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _halves(weight: np.ndarray, head_width: int) -> np.ndarray:
    """Undo GGUF's order of rotated pairs: (2i, 2i + 1) becomes (i, i + half)."""
    heads = weight.reshape(-1, head_width // 2, 2, weight.shape[1])
    return heads.swapaxes(1, 2).reshape(weight.shape)
