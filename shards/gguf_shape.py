"""The ``Shape`` of a model, from the metadata of its GGUF file as llama.cpp writes it.

Mistakes in the metadata are ``BadModelFile``; so is what this release would compute wrongly.
"""

from collections.abc import Callable

import numpy as np

from hearthring.protocol.errors import BadModelFile, BadOption
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.tensors import F32
from hearthring.shards.families import Experts, Family, family
from hearthring.shards.gguf_metadata import Metadata
from hearthring.shards.rope_scaling import linear_factors, yarn_factors, yarn_magnitude
from hearthring.shards.shape import MAX_LAYERS, Shape

Factors = Callable[[str], F32 | None]
"""A tensor of rotary factors by name, if the file has it."""


def read_shape(
    data: Metadata,
    vocabulary: int,
    tied_head: bool,
    factors: Factors,
    context: int | None = None,
) -> Shape:
    """The shape that metadata, rows of the embedding and tensors of factors make up.

    ``context`` takes the place of the file's, which must not be smaller. Raises ``BadModelFile``,
    and ``BadOption`` for such a context.
    """
    architecture = data.text("general.architecture")
    if architecture is None:
        raise BadModelFile("the file names no architecture")
    kind, at = family(architecture), architecture + "."
    layers = data.count(at + "block_count", high=MAX_LAYERS)
    width = data.count(at + "embedding_length", high=LIMITS.width)
    heads = data.count(at + "attention.head_count", high=width)
    head_width = data.count(at + "attention.key_length", width // heads, LIMITS.width)
    rope_width = data.count(at + "rope.dimension_count", head_width, head_width)
    kv_heads = data.count(at + "attention.head_count_kv", heads, heads)
    if heads % kv_heads or head_width % 2 or rope_width % 2:
        raise BadModelFile(f"{heads} heads of {head_width} channels don't fit {kv_heads} KV heads")
    for key, wanted in (("attention.value_length", head_width), ("rope.dimension_count_swa", 0)):
        if data.count(at + key, wanted) not in (head_width, wanted):
            raise BadModelFile(f"{at}{key} other than the head's width isn't supported")
    longest = data.count(at + "context_length")
    context = longest if context is None else context
    if not 0 < context <= longest:
        raise BadOption(f"{context} tokens, of {longest} that the model takes", field="context")
    rope_base = data.real(at + "rope.freq_base", 10_000.0)
    stretch, magnitude = _stretch(data, at, rope_width, rope_base, (context, longest), factors)
    experts, used, ffn = _experts(data, at, kind)
    wide_query = (width / heads) ** -0.5 if layers == kind.wide_query_layers else 0.0
    windows = _windows(data, at, kind, layers)
    return Shape(
        architecture=architecture,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        ffn=ffn,
        vocabulary=vocabulary,
        context=context,
        norm_epsilon=data.real(at + "attention.layer_norm_rms_epsilon"),
        rope_base=rope_base,
        interleaved_rope=kind.interleaved_rope,
        tied_head=tied_head,
        rope_width=0 if rope_width == head_width else rope_width,
        rope_factors=stretch,
        rope_magnitude=magnitude,
        sliding_rope_base=_sliding_base(data, at, kind, windows),
        windows=windows,
        query_scale=data.real(at + "attention.scale", wide_query),
        attention_cap=data.real(at + "attn_logit_softcapping", kind.attention_cap),
        final_cap=data.real(at + "final_logit_softcapping", kind.final_cap),
        embedding_scale=width**0.5 if kind.scaled_embedding else 1.0,
        experts=experts,
        experts_used=used,
        experts_normed=data.flag(at + "expert_weights_norm") is not False,
    )


def _experts(data: Metadata, at: str, kind: Family) -> tuple[int, int, int]:
    """Experts, those used per row, and the inner width of one."""
    experts = data.integer(at + "expert_count") or 0
    if bool(experts) != (kind.experts is Experts.ALWAYS) and kind.experts is not Experts.SOMETIMES:
        raise BadModelFile(f"{at}expert_count of {experts} isn't supported")
    if not experts:
        return 0, 0, data.count(at + "feed_forward_length")
    inner = data.integer(at + "expert_feed_forward_length", 1)
    used = data.count(at + "expert_used_count", high=experts)
    return experts, used, inner or data.count(at + "feed_forward_length")


def _windows(data: Metadata, at: str, kind: Family, layers: int) -> tuple[int, ...]:
    """Per layer; the pattern may be in the file, per layer or as each so-many-th without."""
    window = data.integer(at + "attention.sliding_window")
    window = kind.window if window is None else window
    key = at + "attention.sliding_window_pattern"
    if not window:
        return ()
    if isinstance(data.fields(key).get(key), np.ndarray):
        sliding = [bool(one) for one in data.integers(key)]
        if len(sliding) != layers:
            raise BadModelFile(f"metadata {key} isn't one per layer")
    else:
        every = data.count(key, kind.global_every or layers + 1)
        sliding = [(layer + 1) % every != 0 for layer in range(layers)]
    return tuple(window if one else 0 for one in sliding) if any(sliding) else ()


def _sliding_base(data: Metadata, at: str, kind: Family, windows: tuple[int, ...]) -> float:
    return data.real(at + "rope.freq_base_swa", kind.sliding_rope_base) if windows else 0.0


def _stretch(
    data: Metadata,
    at: str,
    width: int,
    base: float,
    contexts: tuple[int, int],
    factors: Factors,
) -> tuple[tuple[float, ...], float]:
    """Factors and magnitude of the rotation.

    ``contexts``: in use, and the file's. Where a file has factors for short and for long sequences,
    the one in use decides: all rows of a session must be rotated alike, however long it grows, and
    all members of a swarm must know how.
    """
    context, longest = contexts
    original = data.count(at + "rope.scaling.original_context_length", longest)
    magnitude = data.real(at + "rope.scaling.attn_factor", 1.0)
    name = f"rope_factors_{'long' if context > original else 'short'}.weight"
    found = factors(name)
    if found is None:
        name = "rope_freqs.weight"
        found = factors(name)
    if found is not None:
        if found.shape != (width // 2,) or not np.isfinite(found).all() or found.min() <= 0:
            raise BadModelFile(f"tensor {name!r} isn't one positive number per rotated pair")
        return tuple(found.astype(float).tolist()), magnitude
    kind = data.text(at + "rope.scaling.type") or "none"
    factor = data.real(at + "rope.scaling.factor", 1.0)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return (), magnitude
    if kind == "linear":
        return linear_factors(width, factor), magnitude
    if kind == "yarn" and base > 1 and not data.fields(at + "rope.scaling.yarn_log_multiplier"):
        fast = data.real(at + "rope.scaling.yarn_beta_fast", 32.0)
        slow = data.real(at + "rope.scaling.yarn_beta_slow", 1.0)
        magnitude *= data.real(at + "rope.scaling.yarn_attn_factor", 1.0)
        stretch = yarn_factors(width, base, factor=factor, original=original, fast=fast, slow=slow)
        return stretch, magnitude * yarn_magnitude(factor)
    raise BadModelFile(f"rotary positions scaled by {kind!r:.40} aren't supported")
