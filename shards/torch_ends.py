"""The client's side of a model: embedding, final norm and output head, in fp32 through torch.

A row's bits depend on the weights and the row alone: norm and head take one row at a time, and
every kernel runs in one thread.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from hearthring.protocol.errors import BadOption, BadShape, ResidualOverflow
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.engine import Numerics
from hearthring.shards.families import EMBEDDING, HEAD, NORM
from hearthring.shards.fingerprint import uniform
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.shape import Shape
from hearthring.shards.torch_linear import (
    Linear,
    Load,
    padded_rows,
    rms_norm,
    round_residual,
    soft_cap,
)
from hearthring.shards.torch_threads import Team, one_thread

Rows = Callable[[NDArray[np.int64]], F32]
"""Rows of the embedding ``[n, width]`` by token id, dequantised."""

PROBED = 8192  # head rows of the fixed model: enough for the kernel, little enough for memory


class TorchEnds:
    """Embedding, final norm and head of one model; see ``Ends`` for the contract.

    ``load`` gives tensors by GGUF name; only the norm and the head are kept in float32, as the
    embedding is read row by row. Not thread-safe. ``threads`` share the head; torch's own setting,
    which ``norm`` and ``logits`` renew, is one.
    """

    def __init__(
        self,
        load: Load,
        rows: Rows,
        shape: Shape,
        residual: Residual = Residual.FP32,
        threads: int = 1,
    ) -> None:
        self.shape, self.residual, self.threads = shape, residual, threads
        self._rows = rows
        self._norm = torch.from_numpy(load(NORM).copy())
        head = EMBEDDING if shape.tied_head else HEAD
        self._head = Linear([torch.from_numpy(load(head))], Team(threads))

    @classmethod
    def open(
        cls, file: GgufFile, residual: Residual = Residual.FP32, threads: int = 1
    ) -> "TorchEnds":
        """The ends of a model file. Raises ``BadModelFile``."""
        kind, shape, data = file.raw(EMBEDDING)
        packed = data.reshape(shape[0], -1)

        def rows(ids: NDArray[np.int64]) -> F32:
            wide: F32 = dequantize(packed[ids], GGMLQuantizationType(kind))
            return wide.astype(np.float32, copy=False)

        return cls(file.dequantised, rows, file.shape, residual, threads)

    @cached_property
    def numerics(self) -> Numerics:
        """The class of the ends, measured when first asked for."""
        name = f"torch-{torch.__version__}/fp32/mv-cut/ends/{self.residual.value}"
        shape = replace(self.shape, vocabulary=min(self.shape.vocabulary, PROBED), tied_head=False)
        sizes = {NORM: (shape.width,), HEAD: (shape.vocabulary, -1)}

        def load(name: str) -> F32:
            rows = sizes[name][0]
            return uniform(rows, (rows, shape.width) if len(sizes[name]) == 2 else (rows,))

        ends = TorchEnds(
            load,
            lambda ids: uniform(1, (len(ids), shape.width)),
            shape,
            self.residual,
            self.threads,
        )
        digest = hashlib.sha256(f"hearthring ends 1 {self.residual.value}".encode())
        for count in (1, 3, 8):
            states = ends.embed(range(count))
            normed = ends.norm(states)
            for array in (states, normed, ends.logits(normed)):
                digest.update(array.astype("<f4").tobytes())
        return Numerics(name, self.residual, digest.hexdigest())

    def embed(self, ids: Sequence[int]) -> F32:
        """Embeddings ``[n, width]`` of tokens, rounded to the residual type.

        Raises ``BadOption`` for an id outside the vocabulary, ``ResidualOverflow``.
        """
        index = np.asarray(ids, np.int64).reshape(-1)
        if len(index) and not (index.min() >= 0 and index.max() < self.shape.vocabulary):
            raise BadOption(f"token id outside 0 .. {self.shape.vocabulary - 1}", field="ids")
        wide = torch.from_numpy(self._rows(index))
        if self.shape.embedding_scale != 1:
            wide = wide * self.shape.embedding_scale
        states = round_residual(wide, self.residual)
        out: F32 = states.numpy()
        if not np.isfinite(out).all():
            raise ResidualOverflow(
                f"an embedding exceeds {self.residual.value}",
                field="residual",
                mend="use --residual bf16 or fp32",
            )
        return out

    @torch.inference_mode()
    def norm(self, states: F32) -> F32:
        """The final RMSNorm of residual rows ``[n, width]``. Raises ``BadShape``."""
        one_thread()
        rows = torch.from_numpy(self._checked(states))
        out: F32 = rms_norm(rows, self._norm, self.shape.norm_epsilon).contiguous().numpy()
        return out

    @torch.inference_mode()
    def logits(self, normed: F32) -> F32:
        """Logits of normed rows: ``[width]`` to ``[vocabulary]``, or ``[n, width]`` to
        ``[n, vocabulary]``. Raises ``BadShape``."""
        one_thread()
        rows = torch.from_numpy(self._checked(np.atleast_2d(normed)))
        found = self._head.rows(padded_rows(*rows.shape).copy_(rows)).contiguous()
        if self.shape.final_cap:
            for row in found.unbind():
                soft_cap(row, self.shape.final_cap)
        out: F32 = found.numpy()
        return out[0] if normed.ndim == 1 else out

    def _checked(self, rows: F32) -> F32:
        if rows.ndim != 2 or rows.shape[1] != self.shape.width:
            raise BadShape(f"{rows.shape} for rows of {self.shape.width}", field="states")
        return np.ascontiguousarray(rows, np.float32)
