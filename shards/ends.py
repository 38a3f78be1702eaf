"""What the ends of a model are, and which implementation takes a file: the client's side.

Embedding, final norm and output head belong to the client. They make a numerics class of their
own, which stands in the proof.
"""

from collections.abc import Sequence
from typing import Protocol

from hearthring.protocol.errors import BadOption, EngineUnavailable
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.engine import Numerics
from hearthring.shards.engines import ENGINES, WIDE, Say, warn_of_fallback
from hearthring.shards.families import EMBEDDING, HEAD
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.shape import Shape


class Ends(Protocol):
    """Embedding, final norm and head of one model. Not thread-safe.

    A row's bits depend on the weights and on the row alone: not on the rows beside it, nor on the
    number of threads.
    """

    shape: Shape
    residual: Residual

    @property
    def numerics(self) -> Numerics:
        """The class, measured when first asked for."""

    def embed(self, ids: Sequence[int]) -> F32:
        """Embeddings ``[n, width]`` of tokens, rounded to the residual type.

        Raises ``BadOption`` for an id outside the vocabulary, ``ResidualOverflow``.
        """

    def norm(self, states: F32) -> F32:
        """The final RMSNorm of residual rows ``[n, width]``. Raises ``BadShape``."""

    def logits(self, normed: F32) -> F32:
        """Logits of normed rows: ``[width]`` to ``[vocabulary]``, or ``[n, width]`` to
        ``[n, vocabulary]``. Raises ``BadShape``."""


def head_of(shape: Shape) -> str:
    """The GGUF name of the head's matrix."""
    return EMBEDDING if shape.tied_head else HEAD


def open_ends(
    name: str,
    gguf: GgufFile,
    residual: Residual,
    threads: int,
    say: Say = warn_of_fallback,
) -> Ends:
    """The ends of a model file, through the engine called ``name``.

    ``auto`` is torch for fp32 residuals (the reference: ggml rounds what it multiplies to 8 bits),
    else ggml for a quantised head, and torch for others and where ggml can't be used, which
    ``say`` is told (by default it becomes an ``EngineFallback`` warning). Only what is chosen is
    imported. Raises ``BadOption``, ``BadModelFile``, and ``EngineUnavailable`` for ``ggml`` where
    it can't be used.
    """
    if name not in ENGINES:
        raise BadOption(
            f"there is no {name!r}", field="engine", mend=f"one of {', '.join(ENGINES)}"
        )
    quantised = gguf.kind(head_of(gguf.shape)) not in WIDE and residual is not Residual.FP32
    if name == "ggml" or (name == "auto" and quantised):
        from hearthring.shards.ggml_ends import GgmlEnds

        try:
            return GgmlEnds(gguf, residual, threads)
        except EngineUnavailable as error:
            if name == "ggml":
                raise
            say(f"torch for embedding and head, as ggml can't be used: {error.message}")
    from hearthring.shards.torch_ends import TorchEnds

    return TorchEnds.open(gguf, residual, threads)
