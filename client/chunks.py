"""How many prompt rows go into one step: small steps fill the ring sooner, large ones cost less."""

from collections.abc import Sequence
from math import ceil

from hearthring.client.route import Stage

SIZES = (16, 32, 64, 128, 256)
UNKNOWN = 64
"""Rows where no stage says how long they take: one block of the engines that compute in blocks."""
STEP_SECONDS = 0.002
"""What a step costs at a stage beside the engine: checks, hashes, signatures."""


def chunk_rows(prompt: int, stages: Sequence[Stage]) -> int:
    """Rows per step at which a prompt should have passed all stages first.

    Stage *i* works on one chunk while stage *i + 1* works on the chunk before it, so n chunks take
    ``n + stages - 1`` turns of the slowest stage. What a line through measured times has as its
    fixed part is a floor rather than an addition: an engine that computes in blocks takes as long
    for a part of a block as for all of it, and no longer than that for the first whole one.
    """
    if not any(stage.prompt_row_seconds for stage in stages):
        return UNKNOWN

    def seconds(rows: int) -> float:
        turn = max(max(s.prompt_step_seconds, rows * s.prompt_row_seconds) for s in stages)
        return (ceil(prompt / rows) + len(stages) - 1) * (turn + STEP_SECONDS)

    return min((rows for rows in SIZES if rows < 2 * prompt or rows == SIZES[0]), key=seconds)
