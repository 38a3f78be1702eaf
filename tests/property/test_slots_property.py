"""Random trees, commits, drops and cancellations against a model that keeps whole sets."""

from hypothesis import given
from hypothesis import strategies as st

from hearthring.protocol.errors import OutOfSlots
from hearthring.shards.engine import Kind
from hearthring.shards.slots import ROOT, SlotMap

CAPACITY = 12
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["insert"] * 8 + ["chain"] * 3 + ["commit", "drop", "drop", "cancel"]),
        st.integers(0, 10**6),
        st.booleans(),
    ),
    max_size=80,
)


class Naive:
    """Rows by id: parent, position. A row is dead once it or any ancestor was removed."""

    def __init__(self):
        self.parent, self.position = {ROOT: ROOT}, {ROOT: -1}
        self.removed, self.committed = set(), []

    def line(self, row):
        line = []
        while row != ROOT:
            line.insert(0, row)
            row = self.parent[row]
        return line

    def dead(self, row):
        return any(ancestor in self.removed for ancestor in self.line(row))

    def live(self):
        return [row for row in self.parent if row != ROOT and not self.dead(row)]

    def remove(self, row):
        self.removed.add(row)
        self.committed = [kept for kept in self.committed if not self.dead(kept)]


@given(STEPS)
def test_slots_follow_the_naive_model(steps):
    slots, naive = SlotMap(CAPACITY), Naive()
    written = {}  # slot: the row whose K and V it holds, as moves and inserts leave it
    last = ROOT

    for action, pick, flag in steps:
        ids = sorted(naive.parent)
        chosen = ids[pick % len(ids)]
        if action in ("insert", "chain"):
            plan = slots.compaction() if flag else None
            if plan is not None:
                source, target = (array.tolist() for array in plan)
                assert all(new < old for new, old in zip(target, source, strict=True))
                held = [written[slot] for slot in source]
                written.update(zip(target, held, strict=True))
            parent = last if action == "chain" else chosen
            row = max(ids) + 1 + pick % 2
            position = naive.position[parent] + 1
            try:
                entry = slots.insert(row, parent, position, Kind.GENERATED)
            except OutOfSlots:
                assert len(naive.live()) == CAPACITY or not flag
                continue
            naive.parent[row], naive.position[row] = parent, position
            last = row
            assert (entry is None) == naive.dead(row)
            if entry is not None:
                written[entry.slot] = row
                assert [written[slot] for slot in entry.path.tolist()] == naive.line(row)
                assert entry.path.tolist() == sorted(set(entry.path.tolist()))
                assert len(entry.path) == entry.position + 1
        elif action == "commit":
            tip = naive.committed[-1] if naive.committed else ROOT
            fresh = [r for r in naive.live() if naive.parent[r] == tip and r != tip]
            if fresh:
                naive.committed.append(fresh[pick % len(fresh)])
                slots.commit(naive.committed[-2:] if flag else naive.committed[-1:])
        elif chosen != ROOT:
            (slots.drop if action == "drop" else slots.cancel)([chosen])
            naive.remove(chosen)

        live = naive.live()
        assert slots.live == len(live)
        assert all(written[slots.slot(row)] == row for row in live)
        assert [row.id for row in slots.committed] == naive.committed
        assert [row.position for row in slots.committed] == list(range(len(naive.committed)))


@given(st.lists(st.integers(0, 30), max_size=40), st.sets(st.integers(1, 60)))
def test_a_cancellation_that_overtakes_equals_one_that_follows(parents, cancelled):
    early, late = SlotMap(64), SlotMap(64)
    early.cancel(cancelled)
    position = {ROOT: -1}
    for row, pick in enumerate(parents, 1):
        parent = pick % row
        position[row] = position[parent] + 1
        for slots in (early, late):
            slots.insert(row, parent, position[row], Kind.PROMPT)
    late.cancel(cancelled)
    assert {r for r in position if r in early} == {r for r in position if r in late}
    for slots in (early, late):
        slots.drop(cancelled)
    assert early.live == late.live
