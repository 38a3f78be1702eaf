"""What tells one architecture's layers from another's: one description each, under GGUF's names.

An engine has one forward pass, which asks these descriptions what a layer is made of. The numbers
of a model are in its ``Shape``. Names of architectures and tensors are llama.cpp's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from hearthring.protocol.errors import BadModelFile
from hearthring.shards.shape import Shape

EMBEDDING: Final = "token_embd.weight"
NORM: Final = "output_norm.weight"
HEAD: Final = "output.weight"


class Activation(StrEnum):
    """What the gate of a feed-forward block goes through."""

    SILU = "silu"
    GELU = "gelu"
    """The approximation by tanh."""


class Experts(StrEnum):
    """Whether the feed-forward blocks are mixtures of experts."""

    NEVER = "never"
    SOMETIMES = "sometimes"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Family:
    """How the layers of one architecture are put together.

    ``query_bias``: query, key and value products have a bias. ``head_norms``: queries and keys are
    normed per head before they are rotated. ``post_norms``: what attention and feed-forward give
    is normed before it is added to the residual. ``fused``: query, key and value are one matrix,
    gate and up another. ``scaled_embedding``: embeddings are multiplied by ``width ** 0.5``.

    The rest is what files leave unsaid. ``window``: the sliding window without a number in the
    file. ``global_every``: where windows slide, each so-many-th layer sees everything; 0 is none.
    ``sliding_rope_base``, ``attention_cap``, ``final_cap``: as in ``Shape``. ``wide_query_layers``:
    the model of so many layers scales its queries by ``(width / heads) ** -0.5``.
    """

    interleaved_rope: bool = False
    activation: Activation = Activation.SILU
    query_bias: bool = False
    head_norms: bool = False
    post_norms: bool = False
    fused: bool = False
    scaled_embedding: bool = False
    experts: Experts = Experts.NEVER
    window: int = 0
    global_every: int = 0
    sliding_rope_base: float = 0.0
    attention_cap: float = 0.0
    final_cap: float = 0.0
    wide_query_layers: int = 0


FAMILIES: Final[dict[str, Family]] = {
    # Llama, SmolLM, Mistral; with experts Mixtral
    "llama": Family(interleaved_rope=True, experts=Experts.SOMETIMES),
    "qwen2": Family(query_bias=True),
    "qwen3": Family(head_norms=True),
    "qwen3moe": Family(head_norms=True, experts=Experts.ALWAYS),
    "gemma2": Family(
        activation=Activation.GELU,
        post_norms=True,
        scaled_embedding=True,
        window=4096,
        global_every=2,
        attention_cap=50.0,
        final_cap=30.0,
        wide_query_layers=46,
    ),
    "gemma3": Family(
        activation=Activation.GELU,
        head_norms=True,
        post_norms=True,
        scaled_embedding=True,
        global_every=6,
        sliding_rope_base=10_000.0,
        wide_query_layers=62,
    ),
    "phi3": Family(fused=True),
}
"""Every architecture this release runs, by llama.cpp's name."""


def family(architecture: str) -> Family:
    """The description of an architecture. Raises ``BadModelFile`` for one that isn't known."""
    found = FAMILIES.get(architecture)
    if found is None:
        raise BadModelFile(
            f"architecture {architecture!r:.80} isn't supported, only {', '.join(FAMILIES)}",
            field="general.architecture",
        )
    return found


def layer_parts(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Tensors that each layer has, such as ``attn_q.weight``, and their row-major dimensions
    (``(out, in)``, of experts ``(experts, out, in)``). Raises ``BadModelFile``."""
    kind = family(shape.architecture)
    width, head, ffn = shape.width, shape.head_width, shape.ffn
    queries, keys = shape.heads * head, shape.kv_heads * head
    parts: dict[str, tuple[int, ...]] = {"attn_norm.weight": (width,)}
    if kind.fused:
        parts["attn_qkv.weight"] = (queries + 2 * keys, width)
    else:
        projections = {"attn_q": queries, "attn_k": keys, "attn_v": keys}
        for name, size in projections.items():
            parts[f"{name}.weight"] = (size, width)
            if kind.query_bias:
                parts[f"{name}.bias"] = (size,)
    if kind.head_norms:
        parts |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
    parts["attn_output.weight"] = (width, queries)
    if kind.post_norms:
        parts["post_attention_norm.weight"] = (width,)
    parts["ffn_norm.weight"] = (width,)
    if shape.experts:
        parts["ffn_gate_inp.weight"] = (shape.experts, width)
        parts["ffn_gate_exps.weight"] = (shape.experts, ffn, width)
        parts["ffn_up_exps.weight"] = (shape.experts, ffn, width)
        parts["ffn_down_exps.weight"] = (shape.experts, width, ffn)
    elif kind.fused:
        parts |= {"ffn_up.weight": (2 * ffn, width), "ffn_down.weight": (width, ffn)}
    else:
        parts |= {"ffn_gate.weight": (ffn, width), "ffn_up.weight": (ffn, width)}
        parts["ffn_down.weight"] = (width, ffn)
    if kind.post_norms:
        parts["post_ffw_norm.weight"] = (width,)
    return parts


def layer_tensors(shape: Shape, layer: int) -> dict[str, tuple[int, ...]]:
    """``layer_parts`` under their names in layer ``layer``."""
    return {f"blk.{layer}.{part}": size for part, size in layer_parts(shape).items()}


def head_tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The tensors behind the last layer: final norm and, unless it is the embedding, the head."""
    tensors: dict[str, tuple[int, ...]] = {NORM: (shape.width,)}
    if not shape.tied_head:
        tensors[HEAD] = (shape.vocabulary, shape.width)
    return tensors


def all_tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor a file of this shape must hold, with its dimensions."""
    yield EMBEDDING, (shape.vocabulary, shape.width)
    yield from head_tensors(shape).items()
    for layer in range(shape.layers):
        yield from layer_tensors(shape, layer).items()


ROPE_TENSORS: Final = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
"""Tensors that a file may hold beside those: they became numbers of the ``Shape``."""
