"""Tiny seeded Hugging Face folders of every family, written by transformers itself."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from tests.sentences import CORPUS, train

_SMALL: dict[str, Any] = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
_LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]}
_LONG["long_factor"] = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5]

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama3": (
        "Llama",
        {"rope_parameters": _LLAMA3 | {"rope_theta": 5e5, "original_max_position_embeddings": 64}},
    ),
    "mistral": ("Mistral", {"sliding_window": 8, "head_dim": 32}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3moe": (
        "Qwen3Moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16},
    ),
    "gemma2": ("Gemma2", {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 32}),
    "gemma3": ("Gemma3Text", {"head_dim": 16, "sliding_window": 8, "num_hidden_layers": 6}),
    "phi3": (
        "Phi3",
        {
            "rope_parameters": _LONG | {"rope_theta": 1e4},
            "original_max_position_embeddings": 8,
            "sliding_window": 16,
        },
    ),
}
BYTE_LEVEL = ("llama3", "qwen2", "qwen3", "qwen3moe")
PRE = {"llama3": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2", "qwen3moe": "qwen2"}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_hf_folder(
    path: Path, family: str, *, dtype: torch.dtype = torch.float32, **changes: Any
) -> Path:
    """A model, its tokenizer and its chat template, sharded into several files."""
    name, own = FAMILIES[family]
    tokenizer = byte_level(family) if family in BYTE_LEVEL else train()
    settings = _SMALL | {"vocab_size": tokenizer.get_vocab_size() + 4} | own | changes
    config = getattr(transformers, f"{name}Config")(**settings)
    torch.manual_seed(sum(family.encode()))
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            weight.add_(torch.randn_like(weight) * (0.2 if "norm" in key else 0.08))
    model.to(dtype).save_pretrained(path, max_shard_size="100KB")
    tokenizer.save(str(path / "tokenizer.json"))
    write_settings(path, chat_template=TEMPLATE)
    return path


def write_settings(path: Path, **changes: Any) -> None:
    """``tokenizer_config.json``."""
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings | changes))


def byte_level(family: str) -> Tokenizer:
    """Byte-level BPE with the family's words, trained on a little text."""
    whole = PRE[family] == "llama-bpe"
    tokenizer = Tokenizer(BPE(ignore_merges=whole))
    words = _WORDS if whole else _WORDS.replace("{1,3}", "")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<unk>", "<s>", "</s>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if whole:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return tokenizer
