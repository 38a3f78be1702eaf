"""One verifier's side of the ``Verify`` method, for who asks."""

import asyncio

from hearthring.protocol.errors import (
    DeadlineExceeded,
    HearthringError,
    Malformed,
    PeerUnreachable,
)
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import SignedVerdict
from hearthring.protocol.transport import Method, Transport
from hearthring.protocol.verifying import (
    VerifyQuery,
    Working,
    decode_verify_down,
    encode_verify_up,
)
from hearthring.verify import signed_verdict
from hearthring.verify.proof import Proof
from hearthring.verify.signed_verdict import VerdictBody

SILENCE = 20.0
"""Seconds without a sign of life after which a verifier is given up."""


async def ask_verdict(
    transport: Transport, address: str, node: str, proof: Proof, query: VerifyQuery
) -> tuple[SignedVerdict, VerdictBody]:
    """A node's signed verdict on a proof, checked to be its own and about this question.

    Raises what it refused with, ``PeerUnreachable``, ``DeadlineExceeded`` or ``Malformed``.
    """
    try:
        async with asyncio.timeout(LIMITS.verify + SILENCE):
            stream = await transport.dial(address, node, Method.VERIFY)
            try:
                await stream.send(encode_verify_up(query))
                while True:
                    async with asyncio.timeout(SILENCE):
                        data = await stream.receive()
                    if data is None:
                        raise PeerUnreachable("it ended the stream", field=node)
                    frame = decode_verify_down(data)
                    if isinstance(frame, SignedVerdict):
                        return frame, _checked(frame, node, proof, query)
                    if not isinstance(frame, Working):
                        raise Malformed("not what was asked for", field="verify")
            finally:
                await stream.close()
    except TimeoutError:
        raise DeadlineExceeded("no verdict in time", field=node) from None


def _checked(signed: SignedVerdict, node: str, proof: Proof, query: VerifyQuery) -> VerdictBody:
    body = signed_verdict.read(signed)
    if not signed_verdict.about(body, proof.file_hash, proof.model_id, query.place, node):
        raise Malformed("a verdict on something else", field="verdict")
    route = {(stage.node, stage.start, stage.end) for stage in proof.stages}
    if any((g.node, g.start, g.end) not in route for g in body.guilty):
        raise Malformed("it blames somebody who wasn't there", field="verdict.guilty")
    return body


def why(error: HearthringError) -> str:
    """An error in a few words."""
    return f"{type(error).__name__}: {error.message}"
