"""One decoder layer in fp32 for the torch engine: weights, put together as its family says."""

from dataclasses import dataclass

import torch

from hearthring.shards.families import family
from hearthring.shards.shape import Rope, Shape
from hearthring.shards.torch_ffn import Dense, Experts, FeedForward
from hearthring.shards.torch_linear import Linear, Load
from hearthring.shards.torch_threads import Team


@dataclass(frozen=True, slots=True)
class Layer:
    """Query, key and value are one product. ``head_norm`` is ``[heads + kv_heads, head_width]``.
    What a family doesn't have is None; ``window`` 0 sees all."""

    attention_norm: torch.Tensor
    qkv: Linear
    head_norm: torch.Tensor | None
    output: Linear
    attention_post_norm: torch.Tensor | None
    ffn_norm: torch.Tensor
    ffn: FeedForward
    ffn_post_norm: torch.Tensor | None
    rope: Rope
    window: int

    @classmethod
    def load(cls, load: Load, shape: Shape, index: int, team: Team) -> "Layer":
        """Read layer ``index`` of the model. Raises what ``load`` does."""
        kind = family(shape.architecture)

        def tensor(part: str) -> torch.Tensor:
            return torch.from_numpy(load(f"blk.{index}.{part}").copy())

        def linear(*parts: str, bias: bool = False) -> Linear:
            weights = [torch.from_numpy(load(f"blk.{index}.{part}.weight")) for part in parts]
            added = torch.cat([tensor(part + ".bias") for part in parts]) if bias else None
            return Linear(weights, team, added)

        def optional(part: str, there: bool) -> torch.Tensor | None:
            return tensor(part + ".weight") if there else None

        def experts() -> Experts:
            gates, ups, downs = (
                torch.from_numpy(load(f"blk.{index}.ffn_{part}_exps.weight"))
                for part in ("gate", "up", "down")
            )
            each = [
                Dense(Linear([gate, up], team), Linear([down], team), kind.activation)
                for gate, up, down in zip(gates, ups, downs, strict=True)
            ]
            router = linear("ffn_gate_inp")
            return Experts(router, each, shape.experts_used, shape.experts_normed)

        qkv = ("attn_qkv",) if kind.fused else ("attn_q", "attn_k", "attn_v")
        gate_up = ("ffn_up",) if kind.fused else ("ffn_gate", "ffn_up")
        heads = None
        if kind.head_norms:
            query, key = tensor("attn_q_norm.weight"), tensor("attn_k_norm.weight")
            heads = torch.cat([query.expand(shape.heads, -1), key.expand(shape.kv_heads, -1)])
        return cls(
            attention_norm=tensor("attn_norm.weight"),
            qkv=linear(*qkv, bias=kind.query_bias),
            head_norm=heads,
            output=linear("attn_output"),
            attention_post_norm=optional("post_attention_norm", kind.post_norms),
            ffn_norm=tensor("ffn_norm.weight"),
            ffn=experts()
            if shape.experts
            else Dense(linear(*gate_up), linear("ffn_down"), kind.activation),
            ffn_post_norm=optional("post_ffw_norm", kind.post_norms),
            rope=shape.rope(index),
            window=shape.window(index),
        )
