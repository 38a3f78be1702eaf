"""Mixtures of experts as ggml graphs: a row goes to the experts that its router scores highest."""

from dataclasses import dataclass
from typing import Protocol

from hearthring.shards.ggml_memory import Pointer
from hearthring.shards.shape import Shape


class Do(Protocol):
    """Adds the operation ``ggml_NAME`` to a graph."""

    def __call__(self, name: str, *arguments: object) -> Pointer:
        """Its result."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """What is made of a model's rows by experts. ``glu`` is the gate's operation; ``most`` the
    rows that one product may have (``ggml_products.try_experts``), so that rows keep their bits."""

    do: Do
    shape: Shape
    glu: str
    most: int

    def mix(
        self, scores: Pointer, normed: Pointer, tensors: tuple[Pointer, ...], rows: int
    ) -> Pointer:
        """``[rows, width]``: the chosen experts' results by their shares, which are the softmax of
        ``scores`` ``[rows, experts]``. ``tensors``: gate, up and down of all experts."""
        do, shape, used = self.do, self.shape, self.shape.experts_used
        shares = do("soft_max", scores)
        chosen = do("argsort_top_k", shares, used)
        shares = do("get_rows", do("reshape_3d", shares, 1, shape.experts, rows), chosen)
        if shape.experts_normed:
            flat = do("reshape_2d", shares, used, rows)
            flat = do("div", flat, do("sum_rows", flat))
            shares = do("reshape_3d", flat, 1, used, rows)
        made = do("mul", self._products(normed, chosen, tensors, rows), shares)
        size = shape.width * 4
        parts = [
            do("view_2d", made, shape.width, rows, used * size, rank * size) for rank in range(used)
        ]
        total = parts[0] if used > 1 else do("cont", parts[0])
        for part in parts[1:]:
            total = do("add", total, part)
        return total

    def _products(
        self, normed: Pointer, chosen: Pointer, tensors: tuple[Pointer, ...], rows: int
    ) -> Pointer:
        """What each row's experts make of it, ``[rows, experts_used, width]``."""
        do, shape, done = self.do, self.shape, []
        gate, up, down = tensors
        row = shape.width * 4
        ids = shape.experts * 4  # those chosen are the front of a row of all, best first
        for low in range(0, rows, self.most):
            count = min(self.most, rows - low)
            each = do("view_3d", normed, shape.width, 1, count, row, row, low * row)
            theirs = do("view_2d", chosen, shape.experts_used, count, ids, low * ids)
            sides = [do("mul_mat_id", part, each, theirs) for part in (gate, up)]
            gated = do(self.glu + "_split", *sides)
            done.append(do("mul_mat_id", down, gated, theirs))
        return joined(do, done, 2)


def expert_nodes(shape: Shape, rows: int, most: int) -> int:
    """Tensors that a layer's mixture adds to a graph, at most."""
    return 12 + 2 * shape.experts_used + 7 * -(-rows // most)


def joined(do: Do, tensors: list[Pointer], dimension: int) -> Pointer:
    """Tensors one behind the other, joined two by two."""
    while len(tensors) > 1:
        pairs = [tensors[i : i + 2] for i in range(0, len(tensors), 2)]
        tensors = [do("concat", *pair, dimension) if len(pair) > 1 else pair[0] for pair in pairs]
    return tensors[0]
