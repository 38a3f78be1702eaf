"""The file of a trained draft: a model of its own, with the target's embedding, head and tokenizer.

It lies in the model cache under the target's id, so a client that draws on the target finds it.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from hearthring.protocol.tensors import F32
from hearthring.shards.families import EMBEDDING, HEAD, all_tensors
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.gguf_header import Value
from hearthring.shards.gguf_output import Output, write_gguf
from hearthring.shards.quantise import Kind, file_type, pack, tensor_type
from hearthring.shards.shape import Shape
from hearthring.shards.store import ModelStore

FOLDER: Final = "drafts"
TARGET: Final = "hearthring.draft.target"
"""Metadata: the id of the model that it guesses for."""
TYPE: Final = "Q8_0"
"""Type of the learnt matrices; embedding and head keep theirs."""


def draft_shape(target: Shape, layers: int) -> Shape:
    """The shape of a draft for a model: a dense Llama with the same ends."""
    plain = replace(
        target, layers=1, windows=(), experts=0, experts_used=0, embedding_scale=1.0, rope_width=0
    )
    return replace(
        plain,
        architecture="llama",
        layers=layers,
        ffn=2 * target.width if target.experts else target.ffn,
        interleaved_rope=True,
        tied_head=target.tied_head and target.embedding_scale == 1,
        rope_factors=(),
        rope_magnitude=1.0,
        sliding_rope_base=0.0,
        query_scale=0.0,
        attention_cap=0.0,
        final_cap=0.0,
        experts_normed=True,
    )


def copied_layers(target: Shape, layers: int) -> tuple[int, ...]:
    """Layers of the target that a draft's layers begin as, spread evenly; none if they differ."""
    if target.architecture != "llama" or target.experts:
        return ()
    return tuple(layer * (target.layers - 1) // max(1, layers - 1) for layer in range(layers))


def draft_folder() -> Path:
    """Where drafts lie, by the ids of their targets."""
    return ModelStore().root / FOLDER


def draft_path(model_id: str) -> Path:
    """Where the draft of a model lies, if there is one."""
    return draft_folder() / f"{model_id}.gguf"


def write_draft(
    target: GgufFile, model_id: str, name: str, shape: Shape, learnt: dict[str, F32], path: Path
) -> None:
    """Write a draft of ``shape`` to ``path``, whole or not at all.

    ``learnt`` are its layers and norm by GGUF name. Raises ``ModelNotHere`` where the disk is full
    or the folder can't be written, ``EngineUnavailable`` without ggml's quantisers.
    """
    outputs = []
    for key, size in all_tensors(shape):
        if key in learnt:
            kind = tensor_type(TYPE, key, size, shape.layers, shape.tied_head)
            outputs.append(Output(key, size, kind, _packed(kind, learnt[key], key)))
        else:
            outputs.append(_copied(target, key, size))
    new = write_gguf(
        path.parent, _metadata(target, model_id, name, shape), outputs, lambda done, total: None
    )
    os.replace(new, path)


def _packed(
    kind: GGMLQuantizationType, values: F32, name: str
) -> Callable[[], Iterator[NDArray[np.uint8]]]:
    return lambda: iter([pack(kind, values, name)])


def _copied(target: GgufFile, name: str, size: tuple[int, ...]) -> Output:
    """An end of the target, byte by byte; an embedding that it scales is scaled here."""
    own = EMBEDDING if name == HEAD and target.shape.tied_head else name
    kind, _, data = target.raw(own)
    scale = target.shape.embedding_scale
    if name == EMBEDDING and scale != 1:
        wide = dequantize(data.reshape(size[0], -1), Kind(kind)).astype(np.float32) * scale
        return Output(name, size, Kind.F16, _packed(Kind.F16, wide, name))
    return Output(name, size, Kind(kind), lambda: iter([np.ascontiguousarray(data)]))


def _metadata(target: GgufFile, model_id: str, name: str, shape: Shape) -> dict[str, Value]:
    numbers: dict[str, Value] = {
        "block_count": shape.layers,
        "context_length": shape.context,
        "embedding_length": shape.width,
        "feed_forward_length": shape.ffn,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_width,
        "attention.value_length": shape.head_width,
        "attention.layer_norm_rms_epsilon": shape.norm_epsilon,
        "rope.dimension_count": shape.head_width,
        "rope.freq_base": shape.rope_base,
        "vocab_size": shape.vocabulary,
    }
    return {
        "general.architecture": shape.architecture,
        "general.type": "model",
        "general.name": f"draft of {name}",
        "general.file_type": file_type(TYPE),
        "general.quantization_version": 2,
        TARGET: model_id,
        **{f"{shape.architecture}.{key}": value for key, value in numbers.items()},
        **target.fields("tokenizer."),
    }
