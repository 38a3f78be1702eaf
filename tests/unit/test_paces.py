"""Paces by name, and the one that shapes trees by what siblings were worth."""

import pytest

from hearthring.client.controller import Controller
from hearthring.client.draft import Candidate
from hearthring.client.pace import Fixed, Place
from hearthring.client.paces import check_pace, open_pace
from hearthring.client.shaped import LEVELS, ROWS, Shaped, fitting
from hearthring.client.trees import best_shapes
from hearthring.client.trying import Trying
from hearthring.protocol.errors import BadOption
from hearthring.shards.store import ModelEntry
from tests.drafts import Knowing
from tests.memory_ring import memory_swarm

PLACE = Place(0, 1.0, 64)
FULL = [
    Candidate(10 * parent + rank, parent, chance)
    for parent in range(-1, 40)
    for rank, chance in enumerate((0.2, 0.5, 0.1))
]
"""Three siblings at every place, of which the second is the likeliest."""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("auto", Controller), ("dyspec", Controller), ("sequoia", Shaped)),
        *(("ucb", Trying), ("exp3", Trying), ("4", Fixed)),
    ],
)
def test_paces_have_names(name: str, kind: type) -> None:
    assert isinstance(open_pace(check_pace(name), None), kind)


def test_fixed_paces_say_rows_and_steps() -> None:
    assert open_pace("7", None) == Fixed(7)
    assert open_pace("2x4", None) == Fixed(2, 4)
    made = Fixed(3)
    assert open_pace(check_pace(lambda: made), None) is made


@pytest.mark.parametrize("wish", ["", "0", "33", "2x25", "2x", "x4", "-1", "Auto", "4 ", None, 4])
def test_other_names_are_refused(wish: str) -> None:
    with pytest.raises(BadOption, match=r"allowed: auto, dyspec, sequoia, ucb, exp3.*2x4"):
        check_pace(wish)


def metered(row: float, plain: float = 0.1, each: float = 0.0) -> Shaped:
    """A pace that has measured what a plain step takes, and a row and a candidate more."""
    pace = Shaped()
    pace.drafted(1, each)
    for rows in (1, 1, 1, 9, 9, 9):
        pace.meter.round(rows, plain + row * (rows - 1))
    return pace


def test_the_shape_is_filled_by_rank() -> None:
    shape = ((-1, 0), (0, 0), (0, 1), (-1, 1), (3, 2), (3, 5))
    # The second sibling of a place is the likeliest, so it has rank 0; none has rank 5.
    assert fitting(shape, FULL) == [0, 1, 5, 6, 7]


def test_a_row_that_costs_little_makes_a_large_tree() -> None:
    assert metered(0.0001).ask(PLACE) == ROWS
    assert len(metered(0.0001).keep(PLACE, FULL)) > 10
    assert len(metered(0.03).keep(PLACE, FULL)) < 4
    assert len(metered(0.2).keep(PLACE, FULL)) == 0


def test_a_draft_that_takes_time_is_asked_for_less() -> None:
    sizes = [metered(0.001, each=each).ask(PLACE) for each in (0.0001, 0.003, 0.01, 0.09)]
    assert sizes[0] == ROWS
    assert sizes == sorted(sizes, reverse=True)
    assert 1 < sizes[2] < sizes[1] < ROWS
    assert sizes[3] == 1
    assert metered(0.001).ask(Place(0, 1.0, 3)) == 3
    unknown = Shaped(meter=metered(0.001).meter)
    assert unknown.ask(PLACE) == 1
    unknown.drafted(0, 0.5)  # it was reading
    assert unknown.ask(PLACE) == 1
    unknown.drafted(1, 0.0)
    assert unknown.ask(PLACE) == ROWS


def test_siblings_that_nobody_said_are_not_wrong() -> None:
    pace = metered(0.01)
    before = pace.acceptance
    for _ in range(50):
        pace.judged([True])
    assert pace.acceptance[0] > 0.9
    assert pace.acceptance[1:] == before[1:]


def test_it_learns_what_siblings_are_worth() -> None:
    pace = metered(0.01)
    for _ in range(400):
        pace.judged([False, True, False])
    assert pace.acceptance[1] > 0.95 > 0.05 > pace.acceptance[0]
    kept = pace.keep(PLACE, FULL)
    shape = best_shapes(pace.acceptance, ROWS, LEVELS).tree(len(kept), LEVELS)
    assert len(kept) > 4
    assert {rank for _, rank in shape} == {0, 1}
    before = pace.acceptance
    pace.judged([])
    assert pace.acceptance == before, "where nothing was guessed nothing is learnt"


def test_nothing_is_guessed_before_a_plain_step_is_measured() -> None:
    assert Shaped().ask(PLACE) == 0
    assert metered(0.01).ask(Place(1, 1.0, 64)) == 0, "one step at a time"


async def test_answers_are_those_without_guesses(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        client = swarm.client()
        plain = await client.generate("a b a b a b", draft="none", max_tokens=24)
        truth = [*plain.prompt_ids, *plain.token_ids]
        # Rows that were measured to cost nothing: the first step takes all that it may.
        client.answering.pace = lambda: metered(0.0)
        guessed = await client.generate(
            "a b a b a b", draft=lambda setting: Knowing(truth, 3, hit=1.0, wide=1), max_tokens=24
        )
    assert guessed.token_ids == plain.token_ids
    assert guessed.guessing.hits > 0
