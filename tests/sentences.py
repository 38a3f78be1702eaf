"""A small SentencePiece-like vocabulary, trained here, and model files that carry it."""

import json
from pathlib import Path

from gguf import GGUFWriter
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from tests.tiny import CONTEXT, FFN, HEAD_WIDTH, HEADS, KV_HEADS, WIDTH, tiny_weights

CORPUS = [
    "Why is the sky blue? Because the air scatters blue light more than red light.",
    "It was the best of times, it was the worst of times, it was the age of wisdom.",
    "def f(x):\n\tif x > 1:\n\t\treturn [i**2 for i in range(x)]\n\n\n",
    "In 2024, 1234567890 people paid 3.14159 dollars.   ",
    "Пусть всегда будет солнце, пусть всегда будет небо. 今天天气很好 今天",
]
SPECIALS = ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|end|>", "<|user|>")
USER = "<extra>"


def normalizer(*, prefix: bool) -> normalizers.Normalizer:
    """How text is written before it is merged, with or without a space in front."""
    spaces = normalizers.Replace(" ", "▁")
    return normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces


def train(size: int = 700) -> Tokenizer:
    """What Hugging Face makes of a SentencePiece model: BPE with byte fallback, no words."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizer(prefix=True)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = BpeTrainer(
        vocab_size=size, special_tokens=[*SPECIALS, USER, *bytes_], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    state = json.loads(tokenizer.to_str())
    # The trainer also lists bytes and the user's word as special tokens of the text: they aren't.
    state["added_tokens"] = [
        token | {"special": token["content"] != USER}
        for token in state["added_tokens"]
        if token["content"] not in bytes_
    ]
    return Tokenizer.from_str(json.dumps(state))


def write_sentences_gguf(
    path: Path, tokenizer: Tokenizer, *, prefix: bool | None = None, name: str = "tiny"
) -> Path:
    """A tiny Llama with this vocabulary, scored as SentencePiece scores: by order of merging."""
    state = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].get)
    ranks = {"".join(pair): -float(rank) for rank, pair in reversed([*enumerate(state["merges"])])}
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_block_count(1)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([ranks.get(token, -1e6) for token in tokens])
    writer.add_token_types([_type(token) for token in tokens])
    if prefix is not None:
        writer.add_add_space_prefix(prefix)
    weights = tiny_weights(0, 1)
    weights["token_embd.weight"] = weights["blk.0.ffn_up.weight"][[0] * len(tokens)]
    for key, values in weights.items():
        writer.add_tensor(key, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _type(token: str) -> int:
    if token in SPECIALS:
        return 2 if token == "<unk>" else 3
    return 4 if token == USER else 6 if token.startswith("<0x") else 1
