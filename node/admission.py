"""How a step's decisions and rows enter a stage: commits, drops, cancellations, then slots.

The order is the contract. Steps come in order, so what they commit and drop was seen before;
cancellations may overtake them. A row that was cancelled, here or at the stage before, or whose
ancestor was, gets no slot, and its result will be empty.
"""

from collections.abc import Callable, Collection, Iterable

from hearthring.protocol.messages import Step
from hearthring.shards.engine import EngineRow, Kind, Slots
from hearthring.shards.slots import SlotMap


def admit(
    slots: SlotMap,
    step: Step,
    cancelled: Iterable[int],
    known: Collection[int] = (),
    move: Callable[[Slots, Slots], None] = lambda source, target: None,
) -> dict[int, EngineRow]:
    """The rows of a step that are to run, by id, with their slots.

    ``cancelled`` are the rows that the client has cancelled since the step before, ``known`` those
    that are here already. ``move`` copies keys and values between slots, before any row is placed.

    Raises ``UnknownRow``, ``OutOfOrder`` or ``OutOfSlots`` where the sender broke the rules; what
    was applied until then stays, and the session can't go on.
    """
    slots.commit(step.commit)
    slots.drop(step.drop)
    slots.cancel(step.dead)
    slots.cancel(cancelled)
    # Before the first row is placed: moving slots afterwards would leave its path behind.
    if (plan := slots.compaction(len(step.rows))) is not None:
        move(*plan)
    placed = dict[int, EngineRow]()
    for row in step.rows:
        if row.id in known:
            continue
        entry = slots.insert(row.id, row.parent, row.position, Kind(row.kind))
        if entry is not None:
            placed[row.id] = entry
    return placed
