"""Prompt rows per step, from what stages say of themselves."""

import pytest

from hearthring.client.chunks import SIZES, UNKNOWN, chunk_rows
from hearthring.client.route import Stage


def stages(count: int, step: float, row: float) -> list[Stage]:
    return [
        Stage(
            f"n{n}", "", n, n + 1, "fp32", "", "", prompt_step_seconds=step, prompt_row_seconds=row
        )
        for n in range(count)
    ]


def test_without_figures_a_chunk_is_a_block() -> None:
    assert chunk_rows(512, stages(3, 0.0, 0.0)) == UNKNOWN


def test_one_stage_takes_all_it_may_at_once() -> None:
    assert chunk_rows(4096, stages(1, 0.05, 0.004)) == SIZES[-1]


def test_rows_without_a_fixed_cost_go_in_small_steps() -> None:
    assert chunk_rows(512, stages(4, 0.0, 0.004)) == SIZES[0]


def test_an_engine_that_computes_in_blocks_gets_blocks() -> None:
    assert chunk_rows(512, stages(2, 0.3, 0.3 / 64)) == 64


def test_a_fixed_cost_makes_steps_larger() -> None:
    sizes = [chunk_rows(512, stages(2, step, 0.001)) for step in (0.0, 0.01, 0.05, 1.0)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize("prompt", [1, 5, 40, 100])
def test_a_short_prompt_isnt_given_room_it_cant_use(prompt: int) -> None:
    assert chunk_rows(prompt, stages(2, 9.0, 0.001)) < 2 * max(prompt, SIZES[0])
