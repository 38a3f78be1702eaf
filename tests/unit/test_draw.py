"""Draws of cells: stratified, repeatable, unforeseeable."""

from collections import Counter
from hashlib import sha256

from hearthring.verify.draw import Cell, draw


def beacons(count: int) -> list[bytes]:
    return [sha256(bytes([n])).digest() for n in range(count)]


def test_every_layer_is_drawn_and_the_last_as_often_again() -> None:
    for beacon in beacons(50):
        cells = draw(beacon, (3, 9), 200)
        per_layer = Counter(cell.layer for cell in cells)
        assert set(per_layer) == set(range(3, 9))
        assert per_layer[8] >= 7
        assert all(0 <= cell.position < 200 for cell in cells)
        assert list(cells) == sorted(set(cells))


def test_draws_hang_on_everything_they_are_for() -> None:
    one, other = beacons(2)
    plain = draw(one, (0, 4), 100)
    assert plain == draw(one, (0, 4), 100)
    assert plain != draw(other, (0, 4), 100)
    assert [c.position for c in plain] != [c.position for c in draw(one, (4, 8), 100)]


def test_short_sessions_are_drawn_whole_at_their_last_layer() -> None:
    for beacon in beacons(20):
        assert {c.position for c in draw(beacon, (0, 4), 3) if c.layer == 3} == {0, 1, 2}
        assert draw(beacon, (0, 2), 1) == (Cell(0, 0), Cell(1, 0))
        assert draw(beacon, (0, 2), 0) == ()
        late = draw(beacon, (0, 4), 96, first=64)
        assert all(64 <= cell.position < 96 for cell in late)


def test_positions_are_drawn_evenly() -> None:
    """A cheat on a share f of a layer is missed by one draw with probability 1 - f."""
    rows, found = 40, Counter[int]()
    for beacon in [sha256(n.to_bytes(2, "big")).digest() for n in range(2000)]:
        # The second cell of a layer lies beneath the first, so look at the highest.
        found[max(c.position for c in draw(beacon, (0, 2), rows) if c.layer == 0)] += 1
    assert min(found[position] for position in range(rows)) > 20
    assert max(found.values()) < 90


def test_a_few_generated_rows_behind_a_long_prompt_are_drawn() -> None:
    for beacon in beacons(50):
        for layers in (1, 2, 8):
            cells = draw(beacon, (0, layers), 1000, prompt=980)
            late = [c for c in cells if c.layer == layers - 1 and c.position >= 980]
            assert len(late) >= max(2, layers // 2)
