"""The ``Verify`` method: a node opens what it recorded, and judges the proofs of others.

Judging is somebody else's work done for nothing, so it stays small: one job at a time, a few
waiting, one of each peer, on a thread of the lowest priority that holds its breath while the node
serves sessions. A job whose asker is gone ends.
"""

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hearthring.node.archive import Archive
from hearthring.node.places import place_key
from hearthring.protocol.asking import questions
from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    Malformed,
    ModelNotHere,
    QuotaExceeded,
    StageFailed,
    TooLarge,
    UnknownSession,
)
from hearthring.protocol.invitation import Invitation
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.opening import answers_status, ask_rows
from hearthring.protocol.row_type import RowType
from hearthring.protocol.tasks import cancel
from hearthring.protocol.transport import Stream, Transport
from hearthring.protocol.verifying import (
    OpenedRows,
    Opener,
    RowsQuery,
    VerifyQuery,
    Working,
    decode_verify_up,
    encode_verify_down,
)
from hearthring.shards.joining import obtain
from hearthring.shards.parts import EMBEDDING, HEAD, replay_parts, window_parts
from hearthring.shards.store import ModelEntry
from hearthring.verify import signed_verdict
from hearthring.verify.grants import check_grant
from hearthring.verify.judge import Judge
from hearthring.verify.proof import Proof, read
from hearthring.verify.stage_audit import Opened
from hearthring.verify.verdict import Verdict, inconclusive

HEARTBEAT = 5.0
"""Seconds between signs of life to who waits for a verdict."""
BREATH = 0.02
"""Seconds a job waits between batches while the node serves."""

Seeds = Callable[[], Awaitable[Sequence[Invitation]]]


class Verifier:
    """Serves openings and verdicts of one node.

    ``judge`` None: the node opens its own records and judges nobody. ``busy`` tells whether
    sessions are open; ``seeds`` whom to ask for layers that aren't here.
    """

    def __init__(
        self,
        transport: Transport,
        entry: ModelEntry,
        archive: Archive,
        judge: Judge | None = None,
        busy: Callable[[], bool] = lambda: False,
        seeds: Seeds | None = None,
    ) -> None:
        self._transport, self._entry, self._archive = transport, entry, archive
        self._judge, self._busy, self._seeds = judge, busy, seeds
        self._who = transport.identity
        self._turn = asyncio.Lock()
        self._waiting = set[str]()
        self._opened: tuple[bytes, dict[int, Opened]] = b"", {}
        """Records by place in the route, of the asker and proof judged last."""
        self._over = threading.Event()
        """Of the job under way: nobody waits for it any more."""
        self._thread = ThreadPoolExecutor(1, "judge", initializer=_lowest_priority)

    async def serve(self, stream: Stream) -> None:
        """Answer one peer's questions until it ends the stream. Refusals end it by name."""
        async for data in questions(stream):
            match decode_verify_up(data):
                case RowsQuery() as query:
                    await self._open(stream, query)
                case VerifyQuery() as query:
                    await self._verify(stream, query)

    async def close(self) -> None:
        """End the job under way, and those that wait. Idempotent."""
        self._over.set()
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    # -- openings --------------------------------------------------------------------------------

    async def _open(self, stream: Stream, query: RowsQuery) -> None:
        key = place_key(query.session, query.start)
        client = self._archive.client_of(key)
        if stream.peer != client:
            if query.grant is None:
                # As if there were none: whether there was a session is nobody's business.
                raise UnknownSession("no record of it here, or no longer", field="rows.session")
            check_grant(query.grant, client, query.session, self._who.node_id, stream.peer)
        record = self._archive.open(key, stream.peer)
        rows = max(1, LIMITS.piece_bytes // record.row_bytes)
        count = len(record.wire) // record.row_bytes
        for first in range(0, count, rows):
            states = record.wire[first * record.row_bytes : (first + rows) * record.row_bytes]
            last = first + rows >= count
            await stream.send(encode_verify_down(OpenedRows(first, states, last)))

    # -- verdicts --------------------------------------------------------------------------------

    async def _verify(self, stream: Stream, query: VerifyQuery) -> None:
        if self._judge is None:
            raise StageFailed("this node judges nobody's proofs", field="verify")
        peer = stream.peer
        if peer in self._waiting or len(self._waiting) >= LIMITS.verify_jobs:
            raise QuotaExceeded("too many proofs wait here", field="verify")
        self._waiting.add(peer)
        try:
            # On a thread, since every stage's signature is checked.
            proof = await asyncio.to_thread(read, query.proof)
            self._check(proof, query)
            await stream.send(encode_verify_down(Working(len(self._waiting) - 1)))
            job = asyncio.create_task(self._job(self._judge, proof, query, peer))
            try:
                while not job.done():
                    await asyncio.wait([job], timeout=HEARTBEAT)
                    if not job.done():  # fails when the asker is gone, which ends the job
                        await stream.send(encode_verify_down(Working(0)))
            finally:
                if not job.done():
                    await cancel([job])
            verdict, fingerprint = job.result()
        finally:
            self._waiting.discard(peer)
        body = signed_verdict.body_of(
            verdict,
            self._who.node_id,
            proof.file_hash,
            proof.model_id,
            query.place,
            fingerprint,
        )
        await stream.send(encode_verify_down(signed_verdict.sign(body, self._who)))

    def _check(self, proof: Proof, query: VerifyQuery) -> None:
        """Refuse what isn't for this node, before anything is done for it."""
        if proof.model_id != self._entry.model_id:
            raise ModelNotHere("this node serves another model", field="verify.proof")
        if any(stage.node == self._who.node_id for stage in proof.stages):
            raise Malformed("nobody judges an answer of his own", field="verify.proof")
        if proof.rows > LIMITS.verify_rows:
            raise TooLarge(f"{proof.rows} rows", field="verify.proof")
        if query.place >= len(proof.stages):
            raise Malformed("there is no such stage", field="verify.place")

    async def _job(
        self, judge: Judge, proof: Proof, query: VerifyQuery, peer: str
    ) -> tuple[Verdict, str]:
        async with self._turn:
            if query.place < 0:
                wanted = replay_parts(self._entry.manifest)
            else:
                stage = proof.stages[query.place]
                ends = () if query.place else (EMBEDDING, HEAD)
                wanted = (*ends, *window_parts(stage.start, stage.end))
            seeds = await self._seeds() if self._seeds is not None else ()
            try:
                model = await obtain(self._transport, seeds, self._entry, wanted)
            except HearthringError as error:
                return inconclusive(f"the weights aren't here: {error}"), ""
            taken = sent = None
            if query.place >= 0:
                about = proof.file_hash + peer.encode()
                taken = await self._recorded(about, proof, query, query.place - 1)
                sent = await self._recorded(about, proof, query, query.place)
            over = self._over = threading.Event()
            until = time.monotonic() + LIMITS.verify

            def work() -> tuple[Verdict, str]:
                breathe = _Breath(over, until, self._busy)
                if query.place < 0:
                    return judge.whole(proof, model, breathe)
                return judge.stage(proof, query.place, model, taken, sent, breathe)

            try:
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
            except HearthringError as error:
                return inconclusive(str(error)), ""
            except asyncio.CancelledError:
                over.set()
                raise
            except Exception as error:  # a fault of ours: the asker is told, whoever runs us too
                print(f"judge: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                return inconclusive(f"internal error: {type(error).__name__}"), ""

    async def _recorded(
        self, about: bytes, proof: Proof, query: VerifyQuery, place: int
    ) -> Opened | None:
        """What the stage at a place sent, from its own record; None before the first stage."""
        if place < 0:
            return None
        stage = proof.stages[place]
        node = stage.node
        opener = next((one for one in query.openers if one.node == node), None)
        if opener is None:
            return Opened(trouble=f"{node} was not to be asked for its record")
        # What one stage sent is what the next one took, and it is opened once.
        if self._opened[0] != about:
            self._opened = about, {}
        found = self._opened[1].get(place)
        if found is None:
            found = self._opened[1][place] = await self._fetch(proof, opener, stage.start)
        return found

    async def _fetch(self, proof: Proof, opener: Opener, start: int) -> Opened:
        width = self._entry.manifest.shape.width
        size = proof.rows * RowType.parse(proof.residual).row_bytes(width)
        where = self._transport, opener.address, opener.node
        try:
            rows = await ask_rows(*where, proof.session, start, size, opener.grant)
            return Opened(rows, node=opener.node)
        except HearthringError as error:
            said = f"{opener.node} didn't open its record: {type(error).__name__}: {error}"
        if time.time() * 1000 > proof.created_ms + LIMITS.audit_window * 1000:
            return Opened(trouble=f"the audit window is over; {said}")
        alive = await answers_status(*where)
        return Opened(node=opener.node if alive else "", trouble=said)


class _Breath:
    """Called between batches of a job: waits while the node serves, ends what nobody waits for."""

    def __init__(self, over: threading.Event, until: float, busy: Callable[[], bool]) -> None:
        self._over, self._until, self._busy = over, until, busy

    def __call__(self) -> None:
        if self._over.wait(BREATH if self._busy() else 0.0):
            raise StageFailed("nobody waits for this verdict", field="verify")
        if time.monotonic() > self._until:
            raise DeadlineExceeded("the replay took too long", field="verify")


def _lowest_priority() -> None:
    """Where threads have priorities of their own (Linux), others come first."""
    with contextlib.suppress(OSError, AttributeError):
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
