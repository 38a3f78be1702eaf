"""Which cells an audit looks at: drawn by a beacon that the stage couldn't foresee.

Draws are stratified. A stage can be cheap in one layer only, so every layer is drawn at least once;
and it can compute truly and send something else, so its last layer, whose cells hold what was sent,
is drawn as often again, half of it where rows were generated: these may be few beside a long
prompt. A cell needs the stored K and V of all positions before it, so one more of these, *beneath*
it and of its kind, costs its check next to nothing and shows whether they are true.

A cheat on a share f of the cells of every layer goes unseen by n draws with probability (1 - f)^n.
"""

import struct
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

GENERATED_LEAST = 2
"""Generated rows drawn at the last layer of a stage, however few layers it has."""
_TAG = b"hearthring/draw/1"


class Cell(NamedTuple):
    """One layer's work on one row."""

    layer: int
    position: int


def draw(
    beacon: bytes, window: tuple[int, int], rows: int, first: int = 0, prompt: int = 0
) -> tuple[Cell, ...]:
    """The cells to open of a stage with layers ``[start, end)``, in order of layer and position.

    Positions are at random in ``[first, rows)``, of which those from ``prompt`` on were generated.
    Equal arguments give equal draws, and stages of one ring are drawn independently. None without
    rows.
    """
    start, end = window
    if rows <= first:
        return ()
    chance = _numbers(beacon + struct.pack(">IIIII", start, end, first, rows, prompt))
    generated = max(first, prompt)
    cells = set[Cell]()
    for layer in range(start, end):
        position = first + next(chance) % (rows - first)
        cells.add(Cell(layer, position))
        lowest = generated if position >= generated else first
        if position > lowest:
            cells.add(Cell(layer, lowest + next(chance) % (position - lowest)))
    last = {cell.position for cell in cells if cell.layer == end - 1}
    late = max(GENERATED_LEAST, (end - start + 1) // 2)
    for lowest, wanted in ((generated, late), (first, end - start - late)):
        wanted = min(
            len(last) + max(0, wanted),
            len(last) + sum(position not in last for position in range(lowest, rows)),
        )
        while len(last) < wanted:
            last.add(lowest + next(chance) % (rows - lowest))
    return tuple(sorted(cells | {Cell(end - 1, position) for position in last}))


def _numbers(seed: bytes) -> Iterator[int]:
    """Numbers of 128 bits, so that their remainders are as good as even."""
    count = 0
    while True:
        yield int.from_bytes(sha256(_TAG + seed + struct.pack(">Q", count)).digest()[:16], "big")
        count += 1
