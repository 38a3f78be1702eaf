"""Sending rows again to whoever may lack them, once a mended ring's stages have agreed.

A stage that is whole holds every living row up to its newest. The last of those before the first
that isn't sends what it retained, in steps that the client names one by one; the client sends what
it never got, or everything where the first stage isn't whole.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hearthring.client.flight import Sent
from hearthring.client.route import Stage
from hearthring.protocol.messages import ROOT, Replay, Rerouted
from hearthring.protocol.replaying import cut
from hearthring.verify.rowhash import joined

if TYPE_CHECKING:
    from hearthring.client.ring import RingSession

WINDOW = 12
"""Replayed steps under way at once."""


async def resend(ring: "RingSession", newest: Mapping[Stage, int]) -> None:
    """Send every row again that somebody may lack, and await them all.

    ``newest`` is the newest row that each stage holds which was there before this epoch. Cut short,
    it leaves old rows in stages from the first one on that isn't whole, or only some of the new
    ones: none of these is whole then, and the next attempt begins where this one did, or before.
    """
    places = ring.places.attached
    first = next((i for i, attached in enumerate(places) if not attached.whole), len(places))
    whole = first == len(places)
    # Who was prepared has the text up to its newest row, and so have all others.
    lacking = [attached for attached in places if not attached.whole]
    known = min((newest[a.stage] if a.fed is not None else ROOT for a in lacking), default=ROOT)
    for attached in places[first:]:
        attached.whole, attached.fed = False, None
    rows = [
        sent
        for row, sent in ring.flight.live.items()
        if row > known and not (whole and row in ring.ledger.received)
    ]
    held = newest[ring.route[first - 1]] if first else ROOT
    sender = places[first - 1]
    retained = [sent.row for sent in rows if sent.row.id <= held]
    for step in cut(retained, ring.row_bytes):
        await ring.flight.below(WINDOW)
        step_id = ring.launch(step, first)
        await sender.say(Replay(step_id, tuple(row.id for row in step)))
    # The rows behind them come by way of the sender, who must have sent all these by then.
    await ring.flight.below(1)
    for chunk in _cut([sent for sent in rows if sent.row.id > held], ring.row_bytes):
        await ring.flight.below(WINDOW)
        ring.transmit(chunk)
    await ring.flight.below(1)
    for attached in places[first:]:
        attached.whole = True


def compare(ring: "RingSession", said: Mapping[Stage, Rerouted]) -> None:
    """Whoever was prepared, and made other rows of the text than were taken by the stage behind it,
    or the client, counts as one that holds nothing: it is sent everything again, in the open."""
    places = ring.places.attached
    for place, attached in enumerate(places):
        if attached.fed is None:
            continue
        held, answer = ring.places.held(attached), said[attached.stage]
        if place + 1 < len(places):
            behind = said.get(places[place + 1].stage)
            took = behind.took if behind is not None else b""
        else:
            took = joined([ring.ledger.received[row] for row in held])
        if answer.newest < max(held, default=ROOT) or answer.sent != took:
            attached.fed = None


def _cut(rows: Sequence[Sent], row_bytes: int) -> list[list[Sent]]:
    by_id = {sent.row.id: sent for sent in rows}
    steps = cut([sent.row for sent in rows], row_bytes)
    return [[by_id[row.id] for row in step] for step in steps]
