"""Float weights as ggml's types: which type each tensor gets, and the packing itself.

Packing is ggml's own (``ggml_quantize_chunk``), so a file made here holds the bytes that
llama.cpp's ``quantize`` makes without an importance matrix. The choice of types follows
llama.cpp's too, in short:

- vectors (norms, biases) and the router of a mixture stay in F32;
- the output head, or the embedding where it is the head, gets Q6_K, as its errors reach every
  logit; with Q8_0 and wider it gets the type itself;
- with ``Q4_K_M`` and ``Q5_K_M`` half of the values and of the down projections get Q6_K;
- a K type packs 256 columns at a time. A row of another width gets the next better type of 32
  columns (Q2_K, Q3_K: Q4_0; Q4_K: Q5_0; Q5_K: Q5_1; Q6_K: Q8_0), or else F16.
"""

import ctypes as c
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from numpy.typing import NDArray

from hearthring.protocol.errors import BadModelFile, BadOption
from hearthring.protocol.tensors import F32
from hearthring.shards.families import EMBEDDING, HEAD
from hearthring.shards.ggml_library import load_ggml

Kind = GGMLQuantizationType

_MIXED: Final = {"Q4_K_M": Kind.Q4_K, "Q5_K_M": Kind.Q5_K}
_PLAIN: Final = (
    *("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
)
TYPES: Final = (*_PLAIN, *_MIXED)
"""What ``--quantise`` takes."""

_WIDE: Final = frozenset({Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0})
_NARROWER: Final = {
    Kind.Q2_K: Kind.Q4_0,
    Kind.Q3_K: Kind.Q4_0,
    Kind.Q4_K: Kind.Q5_0,
    Kind.Q5_K: Kind.Q5_1,
    Kind.Q6_K: Kind.Q8_0,
}
_FILE_TYPES: Final = {
    "F32": LlamaFileType.ALL_F32,
    "Q2_K": LlamaFileType.MOSTLY_Q2_K,
    "Q3_K": LlamaFileType.MOSTLY_Q3_K_S,
    "Q4_K": LlamaFileType.MOSTLY_Q4_K_S,
    "Q5_K": LlamaFileType.MOSTLY_Q5_K_S,
}
_THREADS: Final = min(8, os.cpu_count() or 1)


def known_type(name: str) -> str:
    """The type called ``name`` in any case. Raises ``BadOption``."""
    if name.upper() not in TYPES:
        raise BadOption(f"there is no {name!r:.40}", field="quantise", mend=f"one of {_ALL}")
    return name.upper()


_ALL: Final = ", ".join(TYPES)


def file_type(wanted: str) -> int:
    """``general.file_type`` of a file of this type."""
    known = _FILE_TYPES.get(wanted)
    return int(LlamaFileType[f"MOSTLY_{wanted}"] if known is None else known)


def tensor_type(
    wanted: str, name: str, shape: Sequence[int], layers: int, tied: bool
) -> GGMLQuantizationType:
    """The type of one tensor of a model of ``layers`` layers, by its GGUF name.

    ``tied``: the embedding is the head too.
    """
    if len(shape) == 1 or name.endswith("ffn_gate_inp.weight"):
        return Kind.F32
    kind = _MIXED.get(wanted) or Kind[wanted]
    head = EMBEDDING if tied else HEAD
    better = wanted in _MIXED and _matters(name, layers)
    if kind not in _WIDE and (better or name == head):
        kind = Kind.Q6_K
    if shape[-1] % GGML_QUANT_SIZES[kind][0]:
        kind = _NARROWER.get(kind, Kind.F16)
    return Kind.F16 if shape[-1] % GGML_QUANT_SIZES[kind][0] else kind


def _matters(name: str, layers: int) -> bool:
    """Whether llama.cpp spends more bits here: the first and last eighth, and a third between."""
    parts = name.split(".")
    if parts[0] != "blk" or parts[2] not in ("attn_v", "attn_qkv", "ffn_down", "ffn_down_exps"):
        return False
    layer, eighth = int(parts[1]), layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def packed_bytes(kind: GGMLQuantizationType, shape: Sequence[int]) -> int:
    """Bytes of a tensor of this type and shape."""
    block, size = GGML_QUANT_SIZES[kind]
    count = 1
    for length in shape:
        count *= length
    return int(count // block * size)


def pack(kind: GGMLQuantizationType, values: F32, name: str = "") -> NDArray[np.uint8]:
    """``values`` ``[..., columns]`` as the bytes of this type.

    Rows are packed one by one, so a tensor may be packed in parts. Raises ``BadModelFile`` naming
    the tensor for values that aren't finite, or too large for the type; ``EngineUnavailable``
    where ggml is needed and isn't there.
    """
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, values.shape[-1])
    if not np.isfinite(rows).all():
        raise BadModelFile(f"tensor {name!r} holds a value that isn't finite")
    if kind == Kind.F32:
        return rows.view(np.uint8).reshape(-1)
    if kind == Kind.F16:
        with np.errstate(over="ignore"):
            half = rows.astype(np.float16)
        if not np.isfinite(half).all():
            raise BadModelFile(
                f"tensor {name!r} holds a value too large for F16", mend="quantise to BF16 or F32"
            )
        return half.view(np.uint8).reshape(-1)
    calls = load_ggml().calls
    out = np.empty(packed_bytes(kind, rows.shape), np.uint8)
    per_row = packed_bytes(kind, rows.shape[1:])

    def part(span: tuple[int, int]) -> None:
        start, stop = span
        calls.ggml_quantize_chunk(
            int(kind),
            c.c_void_p(rows.ctypes.data),
            c.c_void_p(out.ctypes.data),
            start * rows.shape[1],
            stop - start,
            rows.shape[1],
            None,
        )

    step = max(1, min(-(-len(rows) // _THREADS), (4 << 20) // rows.shape[1]))
    spans = [(at, min(at + step, len(rows))) for at in range(0, len(rows), step)]
    part(spans[0])  # alone: it sets up tables that ggml shares
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(part, spans[1:]))
    assert per_row * len(rows) == len(out)
    return out
