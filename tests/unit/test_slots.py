"""Where rows lie: slots of a chain, of its branches, and of what was dropped."""

import numpy as np
import pytest

from hearthring.protocol.errors import OutOfOrder, OutOfSlots, QuotaExceeded, UnknownRow
from hearthring.shards.engine import Kind
from hearthring.shards.slots import REMEMBERED, ROOT, TOMBSTONES, Committed, SlotMap

P, G = Kind.PROMPT, Kind.GENERATED


def chain(slots, ids, parent=ROOT, position=0):
    rows = []
    for offset, row in enumerate(ids):
        rows.append(slots.insert(row, parent, position + offset, P))
        parent = row
    return rows


def test_a_chain_takes_slots_in_order():
    slots = SlotMap(8)
    rows = chain(slots, [1, 2, 5])
    assert [row.slot for row in rows] == [0, 1, 2]
    assert rows[2].path.tolist() == [0, 1, 2]
    assert rows[2].position == 2
    assert slots.slot(5) == 2
    assert 5 in slots
    assert 4 not in slots


def test_siblings_have_paths_of_their_own():
    slots = SlotMap(8)
    chain(slots, [1, 2])
    third, fourth = (slots.insert(row, 2, 2, G) for row in (3, 4))
    child = slots.insert(5, 3, 3, G)
    other = slots.insert(6, 4, 3, G)
    assert third.path.tolist() == [0, 1, 2]
    assert fourth.path.tolist() == [0, 1, 3]
    assert child.path.tolist() == [0, 1, 2, 4]
    assert other.path.tolist() == [0, 1, 3, 5]


def test_commit_extends_the_tip_and_may_repeat():
    slots = SlotMap(8)
    chain(slots, [1, 2, 3])
    assert slots.tip == ROOT
    slots.commit([1, 2])
    slots.commit([2, 3])
    slots.commit([1])
    assert slots.tip == 3
    assert slots.committed == [Committed(1, 0, P), (2, 1, P), (3, 2, P)]


def test_a_refused_commit_commits_nothing():
    slots = SlotMap(8)
    chain(slots, [1, 2, 3])
    slots.insert(4, 1, 1, G)
    for ids, error in (([1, 3], OutOfOrder), ([1, 2, 9], UnknownRow), ([1, 2, 4], OutOfOrder)):
        with pytest.raises(error):
            slots.commit(ids)
        assert slots.committed == []
    slots.drop([4])
    with pytest.raises(UnknownRow, match="dropped"):
        slots.commit([4])


def test_siblings_of_a_committed_row_stay_until_dropped():
    slots = SlotMap(8)
    slots.insert(1, 0, 0, P)
    slots.insert(2, 0, 0, P)
    slots.commit([1])
    assert slots.insert(3, 2, 1, G).path.tolist() == [1, 2]
    slots.drop([2])
    assert slots.live == 1


def test_drop_takes_descendants_and_may_repeat():
    slots = SlotMap(8)
    chain(slots, [1, 2, 3])
    slots.insert(4, 1, 1, G)
    slots.drop([2])
    slots.drop([2, 3])
    assert slots.live == 2
    assert slots.insert(5, 3, 3, G) is None
    assert slots.insert(6, 5, 4, G) is None
    assert slots.insert(7, 4, 2, G).path.tolist() == [0, 3, 4]
    with pytest.raises(UnknownRow):
        slots.drop([1, 99])
    assert 1 in slots


def test_dropping_a_committed_row_rolls_back():
    slots = SlotMap(8)
    chain(slots, [1, 2, 3])
    slots.commit([1, 2, 3])
    slots.drop([2])
    assert slots.tip == 1
    assert slots.insert(4, 1, 1, G).path.tolist() == [0, 1]
    slots.commit([4])
    slots.drop([1])
    assert slots.committed == []
    assert slots.insert(5, ROOT, 0, G).path.tolist() == [0]


def test_a_cancellation_may_come_first():
    slots = SlotMap(8)
    slots.insert(1, 0, 0, P)
    slots.cancel([2, 3])
    assert slots.insert(2, 1, 1, G) is None
    assert slots.insert(4, 2, 2, G) is None
    assert slots.insert(5, 3, 2, G) is None  # its parent was cancelled before it was sent at all
    slots.drop([2, 3])
    slots.drop([2, 3])
    assert slots.insert(6, 3, 2, G) is None
    assert slots.insert(7, 1, 1, G) is not None


def test_a_cancellation_frees_live_rows_at_once():
    slots = SlotMap(3)
    chain(slots, [1, 2, 3])
    slots.cancel([2])
    slots.cancel([2])
    assert slots.live == 1
    assert slots.insert(4, 3, 3, G) is None
    slots.drop([2])
    assert slots.insert(5, 1, 1, G).slot == 1


@pytest.mark.parametrize(
    ("row", "parent", "position", "error"),
    [
        (2, 1, 1, OutOfOrder),
        (1, 1, 1, OutOfOrder),
        (3, 7, 1, UnknownRow),
        (3, 3, 1, UnknownRow),
        (3, 2, 1, OutOfOrder),
        (3, 2, 3, OutOfOrder),
        (3, 0, 1, OutOfOrder),
    ],
)
def test_a_refused_row_changes_nothing(row, parent, position, error):
    slots = SlotMap(8)
    chain(slots, [1, 2])
    with pytest.raises(error):
        slots.insert(row, parent, position, P)
    assert slots.live == 2
    assert slots.insert(3, 2, 2, P).slot == 2


def test_full_is_full():
    slots = SlotMap(2)
    chain(slots, [1, 2])
    assert slots.compaction() is None
    with pytest.raises(OutOfSlots):
        slots.insert(3, 2, 2, P)
    slots.drop([2])
    assert slots.insert(3, 1, 1, P).slot == 1


def test_compaction_makes_room_above():
    slots = SlotMap(4)
    chain(slots, [1])
    slots.insert(2, 1, 1, G)
    tip = slots.insert(3, 1, 1, G)
    last = slots.insert(4, 3, 2, G)
    slots.commit([1, 3])
    slots.drop([2])
    with pytest.raises(OutOfSlots):
        slots.insert(5, 4, 3, G)
    source, target = slots.compaction()
    assert (source.tolist(), target.tolist()) == ([2, 3], [1, 2])
    assert slots.insert(5, 4, 3, G).path.tolist() == [0, 1, 2, 3]
    assert tip.path.tolist() == [0, 2]
    assert last.path.tolist() == [0, 2, 3]  # what was handed out stays
    assert slots.slot(3) == 1


def test_no_compaction_while_there_is_room():
    slots = SlotMap(6)
    chain(slots, [1])
    slots.insert(2, 1, 1, G)
    slots.insert(3, 1, 1, G)
    slots.drop([2])
    assert slots.compaction(3) is None
    source, target = slots.compaction(4)
    assert (source.tolist(), target.tolist()) == ([2], [1])
    assert source.dtype == target.dtype == np.int64


def test_so_many_cancelled_rows_may_wait_to_be_dropped():
    slots = SlotMap(8)
    last = TOMBSTONES + 1
    chain(slots, [1])
    slots.cancel(iter(range(1, last)))
    assert slots.live == 0
    with pytest.raises(QuotaExceeded):
        slots.cancel([last])
    slots.drop([2])
    slots.cancel([last])
    assert slots.insert(last, ROOT, 0, P) is None


def test_a_commit_is_not_compared_with_itself_over_and_over():
    compared = 0

    class Counted(int):
        __hash__ = int.__hash__

        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return int(self) == int(other)

    count = 500
    slots = SlotMap(count)
    chain(slots, range(1, count + 1))
    slots.commit([Counted(row) for row in range(1, count + 1)] * 2)
    assert slots.tip == count
    assert compared < 20 * count


def test_of_old_dead_rows_it_is_forgotten_which_ones_came():
    """A session that drops for ever keeps no more of them than may be under way."""
    slots = SlotMap(8)
    chain(slots, [1, 2])
    for row in range(4, 8 * REMEMBERED, 2):  # of the odd ones none ever comes
        assert slots.insert(row, 2, 2, G) is not None
        slots.drop([row])
        assert len(slots._dead) <= 2 * REMEMBERED
    newest = row
    with pytest.raises(UnknownRow):
        slots.drop([newest - 1])
    with pytest.raises(UnknownRow):
        slots.insert(newest + 1, newest - 1, 3, G)
    assert slots.insert(newest + 1, newest, 3, G) is None
    for old in (4, 5):
        slots.drop([old])
        slots.cancel([old])
        assert slots.insert(newest + 1 + old, old, 3, G) is None
        with pytest.raises(UnknownRow, match="was dropped"):
            slots.commit([old])
    assert slots.insert(newest + 9, 2, 2, G) is not None  # what lives is none of the dead
    slots.commit([1, 2])
    assert slots.tip == 2


def test_rows_may_come_again_that_were_forgotten():
    slots = SlotMap(8)
    chain(slots, [1])
    for row in range(2, 3 * REMEMBERED):
        slots.insert(row, 1, 1, G)
        slots.drop([row])
    slots.rewind(3)
    assert slots.insert(3, 1, 1, G) is not None
    assert slots.insert(4, 2, 2, G) is None
    with pytest.raises(UnknownRow, match="never seen"):
        slots.insert(6, 5, 2, G)
