"""A tiny seeded Llama in a real GGUF file: random weights, a byte-level tokenizer, a chat template.

Small enough to be written in every test, complete enough for llama.cpp to load.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import quantize

WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, FFN, CONTEXT = 64, 4, 2, 16, 128, 512
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = (
    *("Ġ t", "h e", "i n", "Ġ a", "r e", "Ġt he", "o n", "e r", "Ġ s", "a t", "Ġ w", "o u"),
    *("Ġ o", "n d", "i t", "i s", "e s", "e n", "o r", "Ġa nd", "in g", "Ġ b", "Ġ c", "Ġ f"),
    *("l l", "a n", "a l", "s t", "Ġ Ġ", "Ġs ky", "ĠĠ ĠĠ", "Ċ Ċ", "Ð ¾", "à ¤", "h i", "r i"),
    *("s k", "k y", "b l", "bl u", "blu e"),
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
    "Q4_1": LlamaFileType.MOSTLY_Q4_1,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}


def byte_tokens() -> list[str]:
    """The 256 characters that stand for the bytes 0 to 255 in byte-level BPE."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {byte: chr(byte) for byte in plain}
    table |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


def tiny_tokens(merges: Sequence[str] = MERGES) -> list[str]:
    """Specials, then one token per byte, then one per merge."""
    return [*SPECIALS, *byte_tokens(), *(merge.replace(" ", "") for merge in merges)]


def tiny_weights(
    seed: int, layers: int, tokens: int = 0
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Float32 weights by GGUF name, scaled so that a pass stays finite and tokens differ."""
    draw = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return (draw.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    def norm() -> np.ndarray[Any, np.dtype[np.float32]]:
        return draw.uniform(0.8, 1.2, WIDTH).astype(np.float32)

    weights = {
        "token_embd.weight": matrix(tokens or len(tiny_tokens()), WIDTH),
        "output_norm.weight": norm(),
    }
    for layer in range(layers):
        at = f"blk.{layer}."
        weights[at + "attn_norm.weight"] = norm()
        weights[at + "attn_q.weight"] = matrix(HEADS * HEAD_WIDTH, WIDTH)
        weights[at + "attn_k.weight"] = matrix(KV_HEADS * HEAD_WIDTH, WIDTH)
        weights[at + "attn_v.weight"] = matrix(KV_HEADS * HEAD_WIDTH, WIDTH)
        weights[at + "attn_output.weight"] = matrix(WIDTH, HEADS * HEAD_WIDTH)
        weights[at + "ffn_norm.weight"] = norm()
        weights[at + "ffn_gate.weight"] = matrix(FFN, WIDTH)
        weights[at + "ffn_up.weight"] = matrix(FFN, WIDTH)
        weights[at + "ffn_down.weight"] = matrix(WIDTH, FFN)
    return weights


def write_tiny_gguf(
    path: Path,
    *,
    seed: int = 0,
    quant: str = "F32",
    layers: int = 4,
    pre: str = "smollm",
    merges: Sequence[str] = MERGES,
    early_exit: int = 0,
    letters: int = 0,
) -> Path:
    """Write the model with tied head to ``path``. Equal arguments give equal bytes.

    ``quant`` (F32, Q4_0, Q4_1, Q8_0) is the type of the matrices in the layers; with 4 bits the
    embedding is Q8_0, as in the packaged SmolLM2. ``early_exit``: layers behind this one change
    little, as in a model that was trained to be read there. With ``letters`` the
    vocabulary is so many of them, from ``a`` on, and the merges, and no token ends a text.
    """
    specials, tokens = SPECIALS, tiny_tokens(merges)
    if letters:
        begin = len(SPECIALS) + ord("a")
        specials, tokens = (), [*tokens[begin : begin + letters], *tokens[len(SPECIALS) + 256 :]]
    writer = GGUFWriter(path, "llama")
    writer.add_name(f"tiny {seed}")
    writer.add_file_type(_FILE_TYPES[quant])
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(specials) + [1] * (len(tokens) - len(specials)))
    writer.add_token_merges(list(merges))
    if specials:
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    if early_exit:
        writer.add_uint32("hearthring.early_exit", early_exit)
    for name, values in tiny_weights(seed, layers, len(tokens)).items():
        part = name.split(".")
        if early_exit and part[0] == "blk" and int(part[1]) >= early_exit:
            values *= 0.05 if part[2] in ("attn_output", "ffn_down") else 1.0
        kind = GGMLQuantizationType.F32
        if values.ndim == 2 and quant != "F32":
            embedding = name == "token_embd.weight"
            kind = GGMLQuantizationType["Q8_0" if embedding else quant]
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
