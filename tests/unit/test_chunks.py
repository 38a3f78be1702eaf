"""Prompt rows per step, from what stages say of themselves."""

import pytest

from hearthring.client.chunks import SIZES, UNKNOWN, chunk_rows
from hearthring.client.route import Stage

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def stages(count: int, step: float, row: float) -> list[Stage]:
    """Stages whose steps of m rows take ``step + m * row``."""
    return curved(count, [(rows, step + rows * row) for rows in BATCHES] if step or row else [])


def curved(count: int, points: list[tuple[int, float]]) -> list[Stage]:
    return [
        Stage(f"n{n}", "", n, n + 1, "fp32", "", "", prompt_points=tuple(points))
        for n in range(count)
    ]


def test_without_figures_a_chunk_is_a_block() -> None:
    assert chunk_rows(512, stages(3, 0.0, 0.0)) == UNKNOWN


def test_one_stage_takes_all_it_may_at_once() -> None:
    assert chunk_rows(4096, stages(1, 0.05, 0.004)) == SIZES[-1]


def test_rows_without_a_fixed_cost_go_in_small_steps() -> None:
    assert chunk_rows(512, stages(4, 0.0, 0.004)) == SIZES[0]


def test_an_engine_that_computes_in_blocks_gets_blocks() -> None:
    blocks = [(rows, 0.3 * -(-rows // 64)) for rows in BATCHES]
    assert chunk_rows(512, curved(2, blocks)) == 64


def test_kernels_that_like_many_rows_get_more_than_one_block() -> None:
    measured = [(1, 0.06), (16, 0.098), (64, 0.154), (512, 0.838)]
    assert chunk_rows(512, curved(2, measured)) == 128
    assert chunk_rows(512, curved(1, measured)) == SIZES[-1]


def test_a_last_chunk_that_is_smaller_takes_less_time() -> None:
    """192, 68 and 192 rows' time is less than four times that of 96 or of 128."""
    assert chunk_rows(260, stages(2, 0.1, 0.001)) == 192


def test_a_stage_that_says_nothing_takes_as_long_as_the_others() -> None:
    known, unknown = stages(2, 0.01, 0.001), curved(1, [])
    assert chunk_rows(512, [*known, *unknown]) == chunk_rows(512, stages(3, 0.01, 0.001))


def test_a_fixed_cost_makes_steps_larger() -> None:
    sizes = [chunk_rows(512, stages(2, step, 0.001)) for step in (0.0, 0.01, 0.05, 1.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize("prompt", [1, 5, 40, 100])
def test_a_short_prompt_isnt_given_room_it_cant_use(prompt: int) -> None:
    assert chunk_rows(prompt, stages(2, 9.0, 0.001)) < 2 * max(prompt, SIZES[0])
