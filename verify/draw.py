"""Which cells an audit looks at: drawn by a beacon that the stage couldn't foresee.

Draws are stratified. A stage can be cheap in one layer only, so every layer is drawn at least once;
and it can compute truly and send something else, so its last layer, whose cells hold what was sent,
is drawn as often again. A cell needs the stored K and V of all positions before it, so one more of
these, *beneath* it, costs its check next to nothing and shows whether they are true.

A cheat on a share f of the cells of every layer goes unseen by n draws with probability (1 - f)^n.
"""

import struct
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

_TAG = b"hearthring/draw/1"


class Cell(NamedTuple):
    """One layer's work on one row."""

    layer: int
    position: int


def draw(beacon: bytes, window: tuple[int, int], rows: int, first: int = 0) -> tuple[Cell, ...]:
    """The cells to open of a stage with layers ``[start, end)``, in order of layer and position.

    Positions are at random in ``[first, rows)``. Equal arguments give equal draws, and stages of
    one ring are drawn independently. None without rows.
    """
    start, end = window
    if rows <= first:
        return ()
    chance = _numbers(beacon + struct.pack(">IIII", start, end, first, rows))
    cells = set[Cell]()
    for layer in range(start, end):
        position = first + next(chance) % (rows - first)
        cells.add(Cell(layer, position))
        if position > first:
            cells.add(Cell(layer, first + next(chance) % (position - first)))
    last = sum(cell.layer == end - 1 for cell in cells)
    wanted = min(last + end - start, rows - first)
    while sum(cell.layer == end - 1 for cell in cells) < wanted:
        cells.add(Cell(end - 1, first + next(chance) % (rows - first)))
    return tuple(sorted(cells))


def _numbers(seed: bytes) -> Iterator[int]:
    """Numbers of 128 bits, so that their remainders are as good as even."""
    count = 0
    while True:
        yield int.from_bytes(sha256(_TAG + seed + struct.pack(">Q", count)).digest()[:16], "big")
        count += 1
