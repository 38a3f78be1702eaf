"""How rows are cut into steps when they are sent a second time."""

from collections.abc import Sequence

from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import PROMPT, Row

ROWS, BLOCK = 128, 64
"""Rows per step, and what prompt rows are cut at: engines may compute them in such blocks."""


def cut(rows: Sequence[Row], row_bytes: int) -> list[tuple[Row, ...]]:
    """Rows in the order of their ids as steps of one kind each that fit a message.

    Prompt rows are cut at positions that are multiples of ``BLOCK``, like those of a first pass.
    """
    most = min(ROWS, LIMITS.rows_per_step, max(1, LIMITS.message_bytes // 2 // row_bytes))
    if most > BLOCK:
        most -= most % BLOCK
    steps: list[list[Row]] = []
    for row in rows:
        last = steps[-1] if steps else []
        full = len(last) == most or (row.kind == PROMPT and row.position % most == 0)
        if not last or full or last[-1].kind != row.kind:
            steps.append([])
        steps[-1].append(row)
    return [tuple(step) for step in steps]
