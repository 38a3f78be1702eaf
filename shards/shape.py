"""The shape of a model: every number an engine needs, and nothing about files."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder of the Llama family.

    ``interleaved_rope``: rotate channel pairs (2i, 2i+1), as GGUF's Llama files are laid out;
    otherwise (i, i + head_width/2), as Hugging Face does.
    """

    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    ffn: int
    vocabulary: int
    context: int
    norm_epsilon: float
    rope_base: float
    interleaved_rope: bool = True
    tied_head: bool = True
