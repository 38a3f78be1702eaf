"""A model file of random weights in the shape of a 1B Llama, quantised by ggml."""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from hearthring.shards.quantise import pack

LAYERS, WIDTH, HEADS, KV_HEADS, FFN, VOCABULARY = 16, 2048, 32, 8, 8192, 32_000


def write_random_model(path: Path, kind: str) -> Path:
    """Write the file. All layers have the same weights, so that it takes seconds; which weights
    they are changes no speed. llama.cpp loads it: it has a vocabulary without words."""
    draw = np.random.default_rng(1)
    quant = GGMLQuantizationType[kind]
    keys = KV_HEADS * WIDTH // HEADS
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")

    def matrix(outer: int, inner: int) -> np.ndarray:
        values = draw.standard_normal((outer, inner), np.float32) / np.float32(inner**0.5)
        return pack(quant, values).reshape(outer, -1)

    ends = {"token_embd": matrix(VOCABULARY, WIDTH), "output": matrix(VOCABULARY, WIDTH)}
    layer = {
        "attn_q": matrix(WIDTH, WIDTH),
        "attn_k": matrix(keys, WIDTH),
        "attn_v": matrix(keys, WIDTH),
        "attn_output": matrix(WIDTH, WIDTH),
        "ffn_gate": matrix(FFN, WIDTH),
        "ffn_up": matrix(FFN, WIDTH),
        "ffn_down": matrix(WIDTH, FFN),
    }
    norm = np.ones(WIDTH, np.float32)
    writer.add_tensor("output_norm.weight", norm)
    for name, data in ends.items():
        writer.add_tensor(f"{name}.weight", data, raw_dtype=quant)
    for index in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{index}.{name}.weight", norm)
        for name, data in layer.items():
            writer.add_tensor(f"blk.{index}.{name}.weight", data, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
