"""What can be said of a proof without running the model: does it contradict itself?

Receipts tie each stage to its neighbours and the ends to the client. Where two accounts of one
link differ, the sender's signatures decide: a receiver that shows them is believed, and the sender
is guilty of signing two things; a receiver that can't is guilty of claiming what it wasn't sent.
"""

from collections.abc import Iterable

from hearthring.protocol.errors import BadReceipt, WrongClass
from hearthring.protocol.messages import Evidence
from hearthring.protocol.row_type import RowType
from hearthring.verify import receipts
from hearthring.verify.beacon import commitment
from hearthring.verify.claims import proven_rows
from hearthring.verify.proof import DRAFTED_RULES, SAMPLING_RULE, Proof, StageProof
from hearthring.verify.receipts import ReceiptBody
from hearthring.verify.rowhash import CHUNK, chunk_roots
from hearthring.verify.verdict import Guilty, Verdict, inconclusive, rejected

Bodies = tuple[ReceiptBody | None, ...]


def bodies_of(proof: Proof) -> Bodies:
    """The receipts, read; ``None`` where one was withheld."""
    return tuple(receipts.read(s.receipt) if s.receipt else None for s in proof.stages)


def contradiction(proof: Proof, layers: int) -> Verdict | None:
    """The verdict if the proof contradicts itself, or leaves something out; else ``None``."""
    bodies = bodies_of(proof)
    if not proof.stages:
        return rejected("the proof names no stage")
    at = 0
    for stage in proof.stages:
        if stage.start != at or stage.end <= stage.start:
            return rejected(f"no stage begins at layer {at}")
        at = stage.end
    if at != layers:
        return rejected(f"the route ends at layer {at} of {layers}")
    named = [body for body in bodies if body is not None]
    if not receipts.is_hash(proof.model_id):
        return rejected("a model id that isn't a hash")
    if proof.sampling_rule not in (SAMPLING_RULE, *DRAFTED_RULES.values()):
        return inconclusive(f"the sampling rule {proof.sampling_rule!r:.100} isn't known here")
    try:
        RowType.parse(proof.residual)
    except WrongClass:
        return rejected(f"the residual type {proof.residual!r} isn't known")
    if len(proof.row_ids) != proof.rows or list(proof.row_ids) != sorted(set(proof.row_ids)):
        return rejected("the row ids don't fit the tokens")
    if len(proof.in_roots) != _chunks(proof) or len(proof.out_roots) != _chunks(proof):
        return rejected("the client's roots don't fit the number of rows")
    for place, (stage, body) in enumerate(zip(proof.stages, bodies, strict=True)):
        before = bodies[place - 1] if place else None
        if body is not None and (wrong := _misfit(proof, place, stage, body, before)):
            return rejected(f"the receipt of {stage.node} has another {wrong} than the proof")
    if len({body.epoch for body in named}) > 1:
        return rejected("the receipts are of different epochs of the session")
    return _links(proof, bodies) or _withheld(proof)


def misnamed(bodies: Iterable[ReceiptBody], numerics: str, fingerprint: str) -> list[str]:
    """Nodes that name the class ``numerics`` but sign as one of another fingerprint than its own.

    That convicts nobody: a name is for people, and an unlike build may bear it. But bits can't be
    compared with such a node, which is what it may want.
    """
    return [b.node for b in bodies if b.numerics == numerics and b.fingerprint != fingerprint]


def _chunks(proof: Proof) -> int:
    return -(-proof.rows // CHUNK)


def _misfit(
    proof: Proof, place: int, stage: StageProof, body: ReceiptBody, before: ReceiptBody | None
) -> str:
    """The first field in which a receipt is about something else than the proof.

    ``before``: that of the stage before it, whose class it must name, since row hashes cover it:
    under another the rows that are opened wouldn't be those it signed, and who opens them would
    be blamed.
    """
    last = place + 1 == len(proof.stages)
    promised = {
        "client": proof.client,
        "session": proof.session,
        "nonce_hash": commitment(proof.nonce, proof.candidates),
        "model_id": proof.model_id,
        "residual": proof.residual,
        "start": stage.start,
        "end": stage.end,
        "previous": proof.stages[place - 1].node if place else proof.client,
        "next": proof.client if last else proof.stages[place + 1].node,
        "rows": proof.rows,
    }
    if not place:
        promised["previous_fingerprint"] = proof.fingerprint
    elif before is not None:
        promised["previous_fingerprint"] = before.fingerprint
    wrong = [name for name, value in promised.items() if getattr(body, name) != value]
    counts = {len(body.in_roots), len(body.out_roots), len(body.digests)}
    return (wrong or ([] if counts == {_chunks(proof)} else ["number of chunks"]) or [""])[0]


def _links(proof: Proof, bodies: Bodies) -> Verdict | None:
    """Settle the first link whose ends disagree."""
    count = len(proof.stages)
    for link in range(count + 1):
        sender = bodies[link - 1] if link else None
        receiver = bodies[link] if link < count else None
        sent = sender.out_roots if sender else proof.in_roots
        got = receiver.in_roots if receiver else proof.out_roots
        if (link and sender is None) or (link < count and receiver is None) or sent == got:
            continue
        shown = proof.stages[link].received if link < count else proof.received
        boundary = proof.stages[link].start if link < count else proof.stages[-1].end
        sender_id = sender.node if sender else proof.client
        signed = shown is not None and _shows(proof, shown, sender_id, boundary, got)
        if signed and link == 0:
            return rejected("the client signed other rows for its first stage than it proves")
        if not signed and link == count:
            return inconclusive("the client can't show that the last stage sent what it received")
        blamed = proof.stages[link - 1] if signed else proof.stages[link]
        said = (
            "signed its rows one way and its receipt another"
            if signed
            else "claims rows that it can't show it was sent"
        )
        return rejected(
            f"{blamed.node} {said}", Guilty(blamed.node, blamed.start, blamed.end), link=link
        )
    return None


def _shows(
    proof: Proof, evidence: Evidence, sender: str, boundary: int, roots: tuple[bytes, ...]
) -> bool:
    """Whether the sender's signatures cover exactly the rows under these roots."""
    proven = proven_rows(evidence, proof.session, sender, boundary)
    # A sender that signed two versions of a row is caught by whichever the receiver took.
    hashes = [proven.get(row, (b"",))[-1] for row in proof.row_ids]
    try:
        return tuple(chunk_roots(range(len(hashes)), hashes)) == roots
    except BadReceipt:
        return False


def _withheld(proof: Proof) -> Verdict | None:
    missing = [stage for stage in proof.stages if stage.receipt is None]
    if not missing:
        return None
    names = ", ".join(f"{s.node} (layers {s.start} to {s.end})" for s in missing)
    return inconclusive(f"no receipt from {names}", withheld=[s.node for s in missing])
