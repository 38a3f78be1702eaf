"""What tells a broken kernel before it serves: a small tree through one layer, beside numpy."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hearthring.protocol.errors import EngineUnavailable, ResidualOverflow
from hearthring.protocol.tensors import F32, Residual, pack, unpack
from hearthring.shards.engine import Engine, EngineRow, Kind, Segment
from hearthring.shards.fingerprint import uniform
from hearthring.shards.layer_reference import reference_layer

if TYPE_CHECKING:
    from hearthring.shards.ggml_weights import Weights

QUANTISED = 0.05
"""Relative error allowed in what a layer adds to the residual where activations have 8 bits or
bf16 and keys fp16: that gives about 0.01; kernels that were wrong gave 0.4 and more."""
FP32 = 1e-4
"""The same where all is float32: sums in another order give about 1e-6."""

_LITTLE = 1e-6
"""What an error is measured against in a layer that adds nothing."""

PATHS = ((0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 5), (0, 1, 2, 5, 6))
"""Rows of the tree: prompt rows up to position 2, then two branches of generated ones."""


def check_layer(
    weights: "Weights",
    layer: int,
    residual: Residual,
    make: Callable[[Residual], Engine],
    engine: str = "ggml",
    tolerance: float = QUANTISED,
    *,
    exact: bool = True,
) -> None:
    """Compare a layer with plain arithmetic and, of an ``exact`` engine, its rounding to the
    residual type bit by bit.

    ``make`` gives an engine of that layer alone, ``engine`` is its name. Raises
    ``EngineUnavailable``.
    """
    shape = weights.shape
    states = uniform(7, (len(PATHS), shape.width))
    rows = tuple(
        EngineRow(
            Kind.PROMPT if len(path) < 4 else Kind.GENERATED,
            len(path) - 1,
            path[-1],
            np.array(path, np.int64),
        )
        for path in PATHS
    )

    def run(kind: Residual) -> F32:
        one = make(kind)
        return one.forward((Segment(one.new_cache(8), rows),), states)[0]

    wanted = reference_layer(weights, layer, PATHS, states)
    error, rounds = float("inf"), True
    try:
        wide = run(Residual.FP32)
        off = np.linalg.norm(wide - wanted, axis=1)
        added = np.linalg.norm(wanted - states, axis=1)
        if shape.experts:  # a row at the edge of two experts may go to either: the middle row tells
            error = float(np.median(off / np.maximum(added, _LITTLE)))
        else:
            error = float(np.linalg.norm(off)) / max(float(np.linalg.norm(added)), _LITTLE)
        # What fp16 can't hold says nothing about kernels.
        if exact and residual is not Residual.FP32 and np.abs(wide).max() < 60_000:
            rounded = unpack(pack(wide, residual), len(states), shape.width, residual)
            rounds = np.array_equal(run(residual), rounded)
    except ResidualOverflow:
        rounds = False
    if not (error <= tolerance and rounds):
        raise EngineUnavailable(
            f"{engine} gets layer {layer} wrong on this machine (relative error {error:.2g})",
            field="engine",
            mend="use another engine",
        )
