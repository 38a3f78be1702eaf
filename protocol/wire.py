"""Messages to bytes and back; with ``protocol/layers.py`` the only importer of ``ring_pb2``.

``encode_*`` and ``decode_*`` are inverse to each other. Decoding checks counts and ranges against
``limits`` before anything is built from them, and raises ``Malformed`` or ``TooLarge`` with the
offending field; what needs a session's context (shapes, order, signatures) is checked where the
session is.
"""

from math import inf

from hearthring.proto import ring_pb2 as pb
from hearthring.protocol.checks import count as _count
from hearthring.protocol.checks import exactly as _exactly
from hearthring.protocol.checks import parse as _parse
from hearthring.protocol.errors import HearthringError, Malformed, from_wire
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import (
    GENERATED,
    PROMPT,
    SHARE_ALL,
    SHARE_NONE,
    SHARE_OWN,
    AttachDown,
    AttachUp,
    Cancel,
    DirectoryReply,
    Evidence,
    EvidenceQuery,
    Finish,
    Hello,
    HopTime,
    Open,
    Opened,
    Probe,
    Progress,
    Receipt,
    Replay,
    Reroute,
    Rerouted,
    Row,
    SignedRows,
    StatusReply,
    Step,
    StepTime,
    Tap,
    Trouble,
)


def encode_hello(hello: Hello) -> bytes:
    """A caller's first message."""
    return pb.Hello(**{name: getattr(hello, name) for name in Hello.__slots__}).SerializeToString()


def decode_hello(data: bytes) -> Hello:
    """A caller's first message."""
    hello = _parse(pb.Hello, data)
    _count("hello.caller", hello.caller, LIMITS.name_chars)
    _count("hello.swarm", hello.swarm, LIMITS.name_chars)
    return Hello(**{name: getattr(hello, name) for name in Hello.__slots__})


def encode_step(step: Step) -> bytes:
    """A step as bytes."""
    return _step(step).SerializeToString()


def decode_step(data: bytes) -> Step:
    """A step from bytes of a peer."""
    return _read_step(_parse(pb.Step, data))


def encode_up(frame: AttachUp) -> bytes:
    """A client's frame on ``Attach``."""
    match frame:
        case Open():
            up = pb.AttachUp(open=pb.Open(**{n: getattr(frame, n) for n in Open.__slots__}))
        case Cancel(ids):
            up = pb.AttachUp(cancel=pb.Cancel(ids=ids))
        case Finish(last_step, commit):
            up = pb.AttachUp(finish=pb.Finish(last_step=last_step, commit=commit))
        case EvidenceQuery():
            up = pb.AttachUp(evidence=pb.EvidenceQuery())
        case Reroute():
            same = {n: getattr(frame, n) for n in Reroute.__slots__}
            up = pb.AttachUp(reroute=pb.Reroute(**same))
        case Replay():
            up = pb.AttachUp(replay=pb.Replay(**{n: getattr(frame, n) for n in Replay.__slots__}))
        case Probe(number):
            up = pb.AttachUp(probe=pb.Probe(number=number))
    return up.SerializeToString()


def decode_up(data: bytes) -> AttachUp:
    """A client's frame on ``Attach``."""
    frame = _parse(pb.AttachUp, data)
    match frame.WhichOneof("frame"):
        case "open":
            wish = frame.open
            _count("open.taps", wish.taps, 64)
            for name in Open.__slots__:
                if isinstance(getattr(wish, name), str):
                    _count(f"open.{name}", getattr(wish, name), LIMITS.name_chars)
            _exactly("open.session", wish.session, 16)
            _exactly("open.nonce_hash", wish.nonce_hash, 32)
            if wish.sharing not in (SHARE_OWN, SHARE_ALL, SHARE_NONE):
                raise Malformed(f"{wish.sharing} is no way to share", field="open.sharing")
            fields = {name: getattr(wish, name) for name in Open.__slots__}
            return Open(**fields | {"taps": tuple(wish.taps)})
        case "cancel":
            _count("cancel.ids", frame.cancel.ids, LIMITS.session_rows)
            return Cancel(tuple(frame.cancel.ids))
        case "finish":
            _count("finish.commit", frame.finish.commit, LIMITS.session_rows)
            return Finish(frame.finish.last_step, tuple(frame.finish.commit))
        case "evidence":
            return EvidenceQuery()
        case "reroute":
            return _read_reroute(frame.reroute)
        case "replay":
            _count("replay.rows", frame.replay.rows, LIMITS.rows_per_step)
            again = frame.replay
            for name in ("next", "next_address"):
                _count(f"replay.{name}", getattr(again, name), LIMITS.name_chars)
            return Replay(again.step_id, tuple(again.rows), again.next, again.next_address)
        case "probe":
            return Probe(frame.probe.number)
    raise Malformed("no known frame", field="attach")


def encode_down(frame: AttachDown) -> bytes:
    """A stage's frame on ``Attach``."""
    match frame:
        case Opened(numerics, rows):
            down = pb.AttachDown(opened=pb.Opened(numerics=numerics, rows=rows))
        case Step():
            down = pb.AttachDown(result=_step(frame))
        case Tap(step_id, boundary, ids, states):
            tap = pb.Tap(step_id=step_id, boundary=boundary, ids=ids, states=states)
            down = pb.AttachDown(tap=tap)
        case Receipt(body, signature):
            down = pb.AttachDown(receipt=pb.Receipt(body=body, signature=signature))
        case Evidence():
            down = pb.AttachDown(evidence=_evidence(frame))
        case Rerouted(epoch, newest, took, sent):
            rerouted = pb.Rerouted(epoch=epoch, newest=newest, took=took, sent=sent)
            down = pb.AttachDown(rerouted=rerouted)
        case Progress(number, step_id, waiting):
            progress = pb.Progress(number=number, step_id=step_id, waiting=waiting)
            down = pb.AttachDown(progress=progress)
        case Trouble(epoch, node, error):
            said = pb.Trouble(epoch=epoch, node=node, error=_failure(error))
            down = pb.AttachDown(trouble=said)
    return down.SerializeToString()


def decode_down(data: bytes) -> AttachDown:
    """A stage's frame on ``Attach``."""
    frame = _parse(pb.AttachDown, data)
    match frame.WhichOneof("frame"):
        case "opened":
            _count("opened.numerics", frame.opened.numerics, LIMITS.name_chars)
            return Opened(frame.opened.numerics, frame.opened.rows)
        case "result":
            return _read_step(frame.result)
        case "tap":
            _count("tap.ids", frame.tap.ids, LIMITS.rows_per_step)
            tap = frame.tap
            return Tap(tap.step_id, tap.boundary, tuple(tap.ids), tap.states)
        case "receipt":
            return Receipt(frame.receipt.body, frame.receipt.signature)
        case "evidence":
            return _read_evidence(frame.evidence)
        case "rerouted":
            new = frame.rerouted
            return Rerouted(new.epoch, new.newest, new.took, new.sent)
        case "progress":
            far = frame.progress
            return Progress(far.number, far.step_id, far.waiting)
        case "trouble":
            _count("trouble.node", frame.trouble.node, LIMITS.name_chars)
            said = frame.trouble
            return Trouble(said.epoch, said.node, _read_failure(said.error))
    raise Malformed("no known frame", field="attach")


def encode_evidence(evidence: Evidence) -> bytes:
    """Evidence as it is kept in a proof."""
    return _evidence(evidence).SerializeToString()


def decode_evidence(data: bytes) -> Evidence:
    """Evidence out of a proof."""
    return _read_evidence(_parse(pb.Evidence, data))


def encode_status(status: StatusReply) -> bytes:
    """A node's status."""
    return pb.StatusReply(
        node=status.node,
        record=status.record,
        dht_addresses=status.dht_addresses,
        sessions=status.sessions,
        uptime_s=status.uptime,
        version=status.version,
        timings=[pb.StepTime(kind=t.kind, rows=t.rows, seconds=t.seconds) for t in status.timings],
    ).SerializeToString()


def decode_status(data: bytes) -> StatusReply:
    """A node's status."""
    reply = _parse(pb.StatusReply, data)
    _count("status.dht_addresses", reply.dht_addresses, 64)
    if not 0 <= reply.uptime_s < inf:
        raise Malformed("not a time", field="status.uptime")
    _count("status.timings", reply.timings, 64)
    for time in reply.timings:
        if time.kind not in (PROMPT, GENERATED) or not time.rows or not 0 < time.seconds < inf:
            raise Malformed("not a time of a step", field="status.timings")
    return StatusReply(
        reply.node,
        reply.record,
        tuple(reply.dht_addresses),
        reply.sessions,
        reply.uptime_s,
        reply.version,
        tuple(StepTime(time.kind, time.rows, time.seconds) for time in reply.timings),
    )


def encode_query(model_id: str) -> bytes:
    """The question for a model's records; empty: the model of the asked node."""
    return pb.DirectoryQuery(model_id=model_id).SerializeToString()


def decode_query(data: bytes) -> str:
    """The model id asked for."""
    query = _parse(pb.DirectoryQuery, data)
    _count("query.model_id", query.model_id, LIMITS.name_chars)
    return str(query.model_id)


def encode_records(reply: DirectoryReply) -> bytes:
    """The answer to a directory query."""
    return pb.DirectoryReply(model_id=reply.model_id, records=reply.records).SerializeToString()


def decode_records(data: bytes) -> DirectoryReply:
    """The answer to a directory query."""
    reply = _parse(pb.DirectoryReply, data)
    _count("reply.model_id", reply.model_id, LIMITS.name_chars)
    _count("reply.records", reply.records, LIMITS.records_per_reply)
    return DirectoryReply(reply.model_id, tuple(reply.records))


def _step(step: Step) -> pb.Step:
    return pb.Step(
        session=step.session,
        epoch=step.epoch,
        step_id=step.step_id,
        commit=step.commit,
        drop=step.drop,
        rows=[
            pb.Row(id=r.id, parent=r.parent, position=r.position, kind=r.kind) for r in step.rows
        ],
        dead=step.dead,
        states=step.states,
        want_output=step.want_output,
        signature=step.signature,
        times=[
            pb.HopTime(queue_us=round(t.queue * 1e6), compute_us=round(t.compute * 1e6))
            for t in step.times
        ],
        boundary=step.boundary,
    )


def _read_step(step: pb.Step) -> Step:
    _exactly("step.session", step.session, 16)
    _count("step.rows", step.rows, LIMITS.rows_per_step)
    _count("step.dead", step.dead, LIMITS.rows_per_step)
    _count("step.commit", step.commit, LIMITS.session_rows)
    _count("step.drop", step.drop, LIMITS.session_rows)
    _count("step.times", step.times, LIMITS.hops)
    rows = tuple(Row(r.id, r.parent, r.position, r.kind) for r in step.rows)
    for row in rows:
        if row.kind not in (PROMPT, GENERATED):
            raise Malformed(f"{row.kind} is neither prompt nor generated", field="row.kind")
        if row.parent >= row.id:
            raise Malformed("a parent's id is smaller than its child's", field="row.parent")
    return Step(
        session=step.session,
        epoch=step.epoch,
        step_id=step.step_id,
        rows=rows,
        states=step.states,
        commit=tuple(step.commit),
        drop=tuple(step.drop),
        dead=tuple(step.dead),
        want_output=step.want_output,
        signature=step.signature,
        times=tuple(HopTime(t.queue_us / 1e6, t.compute_us / 1e6) for t in step.times),
        boundary=step.boundary,
    )


def _read_reroute(reroute: pb.Reroute) -> Reroute:
    _count("reroute.committed", reroute.committed, LIMITS.session_rows)
    _count("reroute.live", reroute.live, LIMITS.session_rows)
    for name in ("previous", "previous_fingerprint", "next", "next_address"):
        _count(f"reroute.{name}", getattr(reroute, name), LIMITS.name_chars)
    fields = {name: getattr(reroute, name) for name in Reroute.__slots__}
    lists = {"committed": tuple(reroute.committed), "live": tuple(reroute.live)}
    return Reroute(**fields | lists)


def _failure(error: HearthringError) -> pb.Failure:
    return pb.Failure(
        name=type(error).__name__, message=error.message, field=error.field, mend=error.mend
    )


def _read_failure(failure: pb.Failure) -> HearthringError:
    return from_wire(failure.name, failure.message[:500], failure.field[:200], failure.mend[:500])


def _evidence(evidence: Evidence) -> pb.Evidence:
    return pb.Evidence(
        received=[
            pb.SignedRows(
                epoch=s.epoch, step_id=s.step_id, ids=s.ids, hashes=s.hashes, signature=s.signature
            )
            for s in evidence.received
        ]
    )


def _read_evidence(evidence: pb.Evidence) -> Evidence:
    _count("evidence.received", evidence.received, LIMITS.session_rows)
    received = []
    for signed in evidence.received:
        if len(signed.ids) != len(signed.hashes):
            raise Malformed("as many ids as hashes are needed", field="evidence.ids")
        for digest in signed.hashes:
            _exactly("evidence.hashes", digest, 32)
        received.append(
            SignedRows(
                signed.epoch,
                signed.step_id,
                tuple(signed.ids),
                tuple(signed.hashes),
                signed.signature,
            )
        )
    return Evidence(tuple(received))
