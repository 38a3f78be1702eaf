"""Spot checks of a ring at work: do its stages compute what they commit to?

Every stage says what it has committed to so far; only then does the client draw, with chance of its
own, cells among the rows that weren't checked before. What one stage signed it sent must be what
the next signed it took, and the ends must be the client's own.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass, field

from hearthring.client.calibrations import calibration_of
from hearthring.client.cells import ask_commitment, audit_cells
from hearthring.client.closing import evidence
from hearthring.client.coverage import Coverage
from hearthring.client.ring import RingSession
from hearthring.client.route import Stage
from hearthring.protocol.errors import BadReceipt, HearthringError, Unavailable
from hearthring.protocol.opening import answers_status
from hearthring.protocol.transport import Transport
from hearthring.shards.shape import Shape
from hearthring.verify import receipts
from hearthring.verify.cell_check import CellRunner
from hearthring.verify.claims import proven_rows
from hearthring.verify.receipts import ReceiptBody
from hearthring.verify.rowhash import CHUNK, chunk_roots
from hearthring.verify.verdict import Guilty, Outcome, Verdict, inconclusive, rejected

RunnerOf = Callable[[Stage], Awaitable[CellRunner]]
"""Own layers of a stage's window."""


@dataclass(frozen=True, slots=True)
class LiveCheck:
    """What a spot check found.

    ``passed``: stages whose work is verified now on the first ``rows`` rows, earlier checks
    included. ``verdicts`` are those over stages, by node: of several over one, that which rejects.
    ``failed`` names the nodes to leave, and why.
    """

    rows: int = 0
    passed: tuple[Stage, ...] = ()
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


async def check_live(
    transport: Transport,
    ring: RingSession,
    kinds: Sequence[int],
    shape: Shape,
    runner_of: RunnerOf,
    verified: Coverage,
    chosen: Container[str] | None = None,
    whole: bool = False,
) -> LiveCheck:
    """Check the rows that all stages have committed to in full chunks, after those ``verified``;
    with ``whole`` those of the last chunk, too, if all stages have committed to as many.

    ``kinds``: of every row so far; those that come meanwhile are for another time. ``chosen``:
    nodes whose cells are drawn, all if None; what they signed to each other is compared in any
    case. A stage that is alive and doesn't show what it must within ``LIMITS.opening`` has failed;
    one that can't be reached, or a ring that was mended meanwhile, is for another time. Raises
    nothing for what peers do.
    """
    epoch, route = ring.epoch, ring.route
    if ring.mending:  # some of its stages have no session yet
        return LiveCheck()
    said = await asyncio.gather(*(_commitment(transport, ring, stage, whole) for stage in route))
    bodies, failed = list[ReceiptBody](), dict[str, str]()
    for stage, body in zip(route, said, strict=True):
        if isinstance(body, ReceiptBody):
            bodies.append(body)
        elif await _withholds(transport, stage, body):
            failed[stage.node] = f"it didn't commit to its cells: {body}"
    if ring.epoch != epoch or ring.mending:
        return LiveCheck()
    if len(bodies) < len(route):
        return LiveCheck(failed=failed)
    counts = {_both_ends(ring), *(body.rows for body in bodies)}
    rows = min(counts)
    if not whole or len(counts) > 1:  # accounts of unlike length don't end in the same chunk
        rows = rows // CHUNK * CHUNK
    if len(kinds) < rows:  # the text went on while the stages were asked
        rows = len(kinds) // CHUNK * CHUNK
    due = [
        (stage, body)
        for stage, body in zip(route, bodies, strict=True)
        if verified.of(stage) < rows and (chosen is None or stage.node in chosen)
    ]
    if not due:
        return LiveCheck()
    if disputed := await _links(ring, bodies, verified.whole // CHUNK * CHUNK, rows):
        # Of a ring that was mended, rows may still be on their way back in their new form.
        return LiveCheck(failed=disputed if ring.epoch == epoch == 0 else {})

    async def one(stage: Stage, body: ReceiptBody) -> Verdict:
        try:
            runner = await runner_of(stage)
            known = await asyncio.to_thread(calibration_of, ring.model_id)
        except HearthringError as error:  # this machine's own trouble is no fault of the stage
            return inconclusive(f"its layers can't be run here: {error}")
        try:
            return await audit_cells(
                *(transport, stage.address, body, kinds, shape, secrets.token_bytes(32), runner),
                first=verified.of(stage) // CHUNK * CHUNK,
                rows=rows,
                calibration=known,
            )
        except HearthringError as error:
            why = f"it didn't open its cells: {type(error).__name__}: {error}"
            if not await _withholds(transport, stage, error):
                return inconclusive(why)
            return rejected(why, Guilty(stage.node, stage.start, stage.end))

    found = await asyncio.gather(*(one(*pair) for pair in due))
    if ring.epoch != epoch or ring.mending:
        return LiveCheck()
    judged = [(stage, verdict) for (stage, _), verdict in zip(due, found, strict=True)]
    verdicts = dict[str, Verdict]()
    for stage, verdict in judged:
        if stage.node not in verdicts or verdict.outcome is Outcome.REJECTED:
            verdicts[stage.node] = verdict
    return LiveCheck(
        rows,
        tuple(stage for stage, verdict in judged if verdict.outcome is Outcome.ACCEPTED),
        verdicts,
        {node: v.reason for node, v in verdicts.items() if v.outcome is Outcome.REJECTED},
    )


async def _withholds(transport: Transport, stage: Stage, error: HearthringError) -> bool:
    """Whether a stage that showed nothing could have: then it has failed."""
    if not isinstance(error, Unavailable):
        return True
    return await answers_status(transport, stage.address, stage.node)


async def _commitment(
    transport: Transport, ring: RingSession, stage: Stage, whole: bool
) -> ReceiptBody | HearthringError:
    """What a stage has committed to, if it is about this session; else what is wrong."""
    try:
        about = ring.session, stage.start, whole
        said = await ask_commitment(transport, stage.address, stage.node, *about)
        body = receipts.read(said)
    except HearthringError as error:
        return error
    promised = (stage.node, ring.session, stage.start, stage.end, stage.fingerprint)
    if (body.node, body.session, body.start, body.end, body.fingerprint) != promised:
        return BadReceipt("it is about something else", field="commitment")
    chunks = -(-body.rows // CHUNK)
    if {len(body.in_roots), len(body.out_roots), len(body.cell_roots)} != {chunks}:
        return BadReceipt("another number of chunks", field="commitment")
    return body


def _both_ends(ring: RingSession) -> int:
    """Rows of the text, from its begin on, that were sent and have come back."""
    sent, received = ring.ledger.sent, ring.ledger.received
    text = ring.flight.committed
    return next(
        (at for at, row in enumerate(text) if row not in sent or row not in received), len(text)
    )


async def _links(
    ring: RingSession, bodies: Sequence[ReceiptBody], first: int, rows: int
) -> dict[str, str]:
    """Who is to blame where two accounts of one link differ: by the sender's signatures."""
    chunks = slice(first // CHUNK, -(-rows // CHUNK))
    ids = ring.flight.committed[first:rows]
    ledger = ring.ledger
    ends = [
        tuple(chunk_roots(range(len(ids)), [hashes[row] for row in ids]))
        for hashes in (ledger.sent, ledger.received)
    ]
    sent = ends[0]
    for place, body in enumerate(bodies):
        if body.in_roots[chunks] != sent:
            if place == 0:
                return {body.node: "it claims rows that it wasn't sent"}
            before, shown = bodies[place - 1], await evidence(ring, place)
            signed = (
                {} if shown is None else proven_rows(shown, ring.session, before.node, body.start)
            )
            hashes = [signed.get(row, (bytes(32),))[-1] for row in ids]
            if tuple(chunk_roots(range(len(ids)), hashes)) == body.in_roots[chunks]:
                return {before.node: "it signed its rows one way and its commitment another"}
            return {body.node: "it claims rows that it can't show it was sent"}
        sent = body.out_roots[chunks]
    if sent != ends[1]:  # its signatures over the rows that came back are checked and kept
        return {bodies[-1].node: "it signed its rows one way and its commitment another"}
    return {}
