"""Judging opened cells with the weights of one layer at a time.

Each drawn cell is computed again from the residual below it and the opened K and V of the positions
before; what comes out must be the committed residual, and the row's own K and V the stored ones.
In the stage's numerics class both are compared bit by bit. Another class rounds differently, so all
channels of what the layer *added* are compared, within a tolerance for the mean of a layer's cells:
the residual itself is dominated by a few huge channels, beside which a skipped layer would hardly
show.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hearthring.protocol.cells import OpenedColumn
from hearthring.protocol.errors import (
    BadOpening,
    HearthringError,
    ProtocolError,
    ResidualOverflow,
)
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tensors import F32, Residual
from hearthring.verify.draw import Cell
from hearthring.verify.opening import Opening, Promise
from hearthring.verify.rowhash import CHUNK, row_hashes
from hearthring.verify.tolerance import NOTHING, Calibration
from hearthring.verify.verdict import (
    INT8_BETWEEN_CLASSES,
    Guilty,
    Outcome,
    Strength,
    Verdict,
    inconclusive,
    rejected,
)

_STEP = {Residual.FP32: 0.0, Residual.FP16: 2.0**-10, Residual.BF16: 2.0**-7}
"""How far two roundings of nearly the same value lie apart, as a share of it."""


class Recomputed(Protocol):
    """Cells computed again: residuals ``[cells, width]``, and K and V as stored.

    ``k_said`` and ``v_said``: what the stage stored, in the same floats as ``k_floats``.
    """

    @property
    def out(self) -> F32: ...
    @property
    def k(self) -> bytes: ...
    @property
    def v(self) -> bytes: ...
    @property
    def k_floats(self) -> F32: ...
    @property
    def v_floats(self) -> F32: ...
    @property
    def k_said(self) -> F32: ...
    @property
    def v_said(self) -> F32: ...


class CellRunner(Protocol):
    """Own weights of the model, by layer."""

    fingerprint: str
    """Class of the engine."""
    kv: str
    """How it stores K and V."""

    def run(
        self,
        layer: int,
        rows: Sequence[tuple[int, int]],
        below: F32,
        stored: tuple[bytes, bytes],
        kv: str,
    ) -> Recomputed:
        """Run rows ``(kind, position)``, positions growing, through one layer.

        ``below``: their residuals under it. ``stored``: K and V of all positions up to the last
        of them, of type ``kv``. Raises ``BadShape`` or ``NonFinite`` for what can't be any.
        """


def check_cells(
    promise: Promise,
    cells: Sequence[Cell],
    columns: Sequence[OpenedColumn],
    runner: CellRunner,
    calibration: Calibration = NOTHING,
) -> Verdict:
    """The verdict over a stage from the cells that were drawn and what it opened of them.

    ``calibration`` says what another class may differ by; it is not asked within the class.
    Rejected names the stage, and in its figures ``layer`` and ``position`` of the first cell that
    is wrong, chunk by chunk. An opening that contradicts the stage's own signature is as wrong as a
    cell.
    """
    body = promise.body
    guilty = Guilty(body.node, body.start, body.end)
    same = runner.fingerprint == body.fingerprint and runner.kv == body.kv
    strength = Strength.BITS if same else Strength.TOLERANCE
    figures: dict[str, Any] = {"cells": len(cells)}
    if not same and RowType.parse(body.residual).int8:
        return inconclusive(INT8_BETWEEN_CLASSES, **figures)
    if len(body.cell_roots) != -(-body.rows // CHUNK):
        return rejected(f"{body.node} didn't commit to its cells", guilty, **figures)
    try:
        opening = Opening(promise, columns)
        figures["bytes"] = opening.bytes
        found = [
            one for layer in _layers(cells) for one in _check_layer(promise, opening, layer, runner)
        ]
    except (ProtocolError, ResidualOverflow) as error:
        why = error if isinstance(error, BadOpening) else f"{type(error).__name__}: {error}"
        return rejected(
            f"{body.node} opened other cells than it committed to: {why}", guilty, **figures
        )
    except HearthringError as error:  # this machine's own trouble is no fault of the stage
        return inconclusive(f"its layers can't be run here: {error}", **figures)
    if same:
        wrong = [one for one in found if not one.equal]
        figures["cells_equal"] = len(found) - len(wrong)
    else:
        limits = calibration.tolerance([body.numerics])
        added, stored = limits.cell_added, limits.cell_stored
        means = layer_means((one.cell.layer, one.added, one.stored) for one in found)
        far = {n for n, mean in means.items() if mean[0] > added or mean[1] > stored}
        wrong = [one for one in found if one.cell.layer in far]
        figures |= {
            "added_error": round(max((mean[0] for mean in means.values()), default=0.0), 5),
            "stored_error": round(max((mean[1] for mean in means.values()), default=0.0), 5),
            "thresholds": {"added_error": added, "stored_error": stored},
            "false_rejections_at_most": limits.bound,
        }
    if wrong:
        first = min(wrong, key=lambda one: (one.cell.position // CHUNK, one.cell.layer))
        layer, position = first.cell
        figures |= {"cells_wrong": len(wrong), "layer": layer, "position": position}
        reason = f"{body.node} did not compute layer {layer} of the model at position {position}"
        return rejected(reason, guilty, strength=strength, **figures)
    how = "bit for bit what the model gives" if same else "within the tolerance between classes"
    reason = f"every cell that was drawn is {how}"
    return Verdict(Outcome.ACCEPTED, reason, (), strength, figures)


@dataclass(frozen=True, slots=True)
class _Found:
    cell: Cell
    equal: bool
    added: float = 0.0
    stored: float = 0.0


def _layers(cells: Sequence[Cell]) -> list[tuple[int, list[int]]]:
    grouped: dict[int, list[int]] = {}
    for layer, position in sorted(set(cells)):
        grouped.setdefault(layer, []).append(position)
    return list(grouped.items())


def _check_layer(
    promise: Promise, opening: Opening, drawn: tuple[int, list[int]], runner: CellRunner
) -> list[_Found]:
    layer, positions = drawn
    body, residual = promise.body, RowType.parse(promise.body.residual).residual
    rows = [(promise.kinds[position], position) for position in positions]
    below, above = (
        promise.rows_at(boundary).unpack(
            _joined(opening, boundary, positions), len(rows), promise.width
        )
        for boundary in (layer, layer + 1)
    )
    stored = opening.stored(layer, positions[-1])
    made = runner.run(layer, rows, below, stored, body.kv)
    wire = promise.rows_at(layer + 1).pack(made.out)
    hashes = row_hashes(
        bytes.fromhex(body.model_id),
        bytes.fromhex(body.fingerprint),
        layer + 1,
        [kind for kind, _ in rows],
        positions,
        wire,
        len(rows),
    )
    size, found = promise.kv_bytes, []
    for i, position in enumerate(positions):
        said = [part[position * size : (position + 1) * size] for part in stored]
        mine = [part[i * size : (i + 1) * size] for part in (made.k, made.v)]
        equal = hashes[i] == opening.hash(layer + 1, position) and said == mine
        found.append(_Found(Cell(layer, position), equal, *errors(made, i, below, above, residual)))
    return found


def errors(
    made: Recomputed, at: int, below: F32, above: F32, residual: Residual
) -> tuple[float, float]:
    """How far the cell ``at`` is from its recomputation: what the layer added, and K and V.

    Both are relative; 0 is equal. ``below`` and ``above`` are the residuals ``[cells, width]``.
    """
    added = _added_error(made.out[at], above[at], below[at], residual)
    stored = max(
        _relative(made.k_floats[at], made.k_said[at]),
        _relative(made.v_floats[at], made.v_said[at]),
    )
    return added, stored


def _joined(opening: Opening, boundary: int, positions: Sequence[int]) -> bytes:
    return b"".join(opening.residual(boundary, position) for position in positions)


def layer_means(errors: Iterable[tuple[int, float, float]]) -> dict[int, tuple[float, float]]:
    """Mean errors of each layer's cells, from (layer, added, stored) of every cell.

    The first rows of a text may have huge channels, and then far larger errors than all others;
    what is computed otherwise is far off in every row.
    """
    grouped: dict[int, list[tuple[float, float]]] = {}
    for layer, *pair in errors:
        grouped.setdefault(layer, []).append((pair[0], pair[1]))
    return {
        layer: (sum(a for a, _ in some) / len(some), sum(s for _, s in some) / len(some))
        for layer, some in grouped.items()
    }


def _added_error(mine: F32, said: F32, below: F32, residual: Residual) -> float:
    """Error of what the layer added, beyond what rounding the sum explains."""
    beyond = np.abs(mine - said) - np.abs(mine) * np.float32(_STEP[residual])
    return _ratio(np.maximum(beyond, 0), mine - below)


def _relative(mine: F32, said: F32) -> float:
    return _ratio(mine - said, mine)


def _ratio(error: F32, whole: F32) -> float:
    size = float(np.linalg.norm(whole))
    off = float(np.linalg.norm(error))
    return off / size if size else float(off > 0)
