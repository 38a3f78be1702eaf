"""How many prompt rows go into one step: small steps fill the ring sooner, large ones cost less."""

from collections.abc import Sequence

import numpy as np

from hearthring.client.route import Stage

SIZES = (16, 32, 48, 64, 96, 128, 192, 256)
UNKNOWN = 64
"""Rows where no stage says how long they take: one block of the engines that compute in blocks."""
STEP_SECONDS = 0.002
"""What a step costs at a stage beside the engine: checks, hashes, signatures."""


def chunk_rows(prompt: int, stages: Sequence[Stage]) -> int:
    """Rows per step at which a prompt should have passed all stages first.

    Stage *i* works on one chunk while stage *i + 1* works on the chunk before it. So what all
    chunks take at the slowest stage is followed by the largest one's turn at each of the others.
    """
    known = [stage.prompt_points for stage in stages if stage.prompt_points]
    if not known:
        return UNKNOWN

    def turn(rows: int) -> float:
        return max(step_seconds(points, rows) for points in known) + STEP_SECONDS if rows else 0.0

    def seconds(rows: int) -> float:
        whole, rest = divmod(prompt, rows)
        return whole * turn(rows) + turn(rest) + (len(stages) - 1) * turn(min(rows, prompt))

    return min((rows for rows in SIZES if rows < 2 * prompt or rows == SIZES[0]), key=seconds)


def step_seconds(points: Sequence[tuple[int, float]], rows: int) -> float:
    """Time of a step: straight lines between measured points, in proportion beyond the last."""
    if rows >= points[-1][0]:
        return points[-1][1] * rows / points[-1][0]
    sizes, seconds = [point[0] for point in points], [point[1] for point in points]
    return float(np.interp(rows, sizes, seconds))
