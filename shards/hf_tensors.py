"""Hugging Face weights as llama.cpp's: what each GGUF tensor is made of. Pure.

Names come from the ``gguf`` package's maps. Three things change on the way: Llama's queries and
keys are reordered, because GGUF rotates neighbouring channels and Hugging Face the two halves of a
head; Gemma's norms, which Hugging Face applies as ``1 + weight``, get the one added; and experts,
kept one by one, are stacked.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

from hearthring.protocol.errors import BadModelFile
from hearthring.protocol.tensors import F32
from hearthring.shards.families import all_tensors
from hearthring.shards.shape import Shape

_EXPERT: Final = re.compile(r"\.experts\.(\d{1,5})\.")
_PREFIXES: Final = ("language_model.model.", "model.language_model.")
"""How models that also see write the names of the part that reads."""
_IGNORED: Final = re.compile(
    r"(model\.)?(vision_tower|multi_modal_projector)\..*|.*\.rotary_emb\.inv_freq"
)


@dataclass(frozen=True, slots=True)
class Part:
    """One GGUF tensor: ``sources`` stacked, each with as many rows as the others.

    ``halves``: the width of heads whose rows are reordered, or 0. ``plus_one``: add one.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    halves: int = 0
    plus_one: bool = False

    def converted(self, rows: F32) -> F32:
        """Rows as GGUF keeps them; of a tensor with ``halves``, rows of whole heads."""
        if self.halves:
            rows = interleaved(rows, self.halves)
        return rows + np.float32(1) if self.plus_one else rows


def interleaved(rows: F32, head_width: int) -> F32:
    """Rows ``[heads * head_width, ...]``, the two halves of each head taken in turns."""
    heads = rows.reshape(-1, 2, head_width // 2, *rows.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


def parts(shape: Shape, found: Mapping[str, tuple[int, ...]]) -> list[Part]:
    """What each tensor of a model of this shape is made of, in the order of ``all_tensors``.

    ``found`` holds the shapes of the folder's tensors by name. Raises ``BadModelFile`` for tensors
    that are missing, are of another shape, or belong to nothing that this release computes.
    """
    sources = _sources(shape, found)
    gemma = shape.architecture.startswith("gemma")
    made = []
    for name, size in all_tensors(shape):
        names = sources.pop(name, ())
        stacked = name.endswith("_exps.weight")
        wanted, each = (size[0], size[1:]) if stacked else (1, size)
        if not names:
            raise BadModelFile(f"the weights of {name} are missing")
        if len(names) != wanted:
            raise BadModelFile(f"{len(names)} experts make up {name} instead of {wanted}")
        for source in names:
            if found[source] != each:
                raise BadModelFile(
                    f"tensor {source!r:.200} has shape {found[source]} instead of {each}"
                )
        rotated = name.endswith(("attn_q.weight", "attn_k.weight"))
        made.append(
            Part(
                name,
                size,
                names,
                halves=shape.head_width if shape.interleaved_rope and rotated else 0,
                plus_one=gemma and name.endswith("norm.weight"),
            )
        )
    if sources:
        left = next(iter(sources.values()))[0]
        raise BadModelFile(
            f"tensor {left!r:.200} isn't part of a {shape.architecture} model of this release"
        )
    return made


def _sources(shape: Shape, found: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Names in the folder by GGUF name; experts in order."""
    architectures = {name: number for number, name in MODEL_ARCH_NAMES.items()}
    names = get_tensor_name_map(architectures[shape.architecture], shape.layers)
    grouped: dict[str, dict[int, str]] = {}
    for source in found:
        if _IGNORED.fullmatch(source) or (shape.tied_head and source.endswith("lm_head.weight")):
            continue
        expert = _EXPERT.search(source)
        plain = _EXPERT.sub(".experts.", source)
        for prefix in _PREFIXES:
            if plain.startswith(prefix):
                plain = "model." + plain.removeprefix(prefix)
        plain = plain.removeprefix("language_model.")
        name = names.get_name(plain, try_suffixes=(".weight", ".bias"))
        number = int(expert[1]) if expert else 0
        # An unknown name stands for itself, so that it is reported as left over.
        known = grouped.setdefault(name or source, {})
        if number in known:
            raise BadModelFile(f"tensors {known[number]!r:.200} and {source!r:.200} are one")
        known[number] = source
    result = {}
    for name, numbered in grouped.items():
        if sorted(numbered) != list(range(len(numbered))):
            raise BadModelFile(f"experts of {name} are missing")
        result[name] = tuple(numbered[number] for number in range(len(numbered)))
    return result
