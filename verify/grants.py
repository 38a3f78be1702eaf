"""Grants: a client lets one peer have what one stage recorded of one session.

A record can reveal the prompt to whoever has the first layers, so a stage opens it to the session's
client and to those the client names, to nobody else.
"""

import time

from google.protobuf.message import DecodeError

from hearthring.proto import verify_pb2
from hearthring.protocol import identity
from hearthring.protocol.errors import Malformed, Unauthenticated
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.verifying import Grant

VERSION = 1
_CONTEXT = b"hearthring/grant/1"


def grant(
    who: identity.Identity,
    session: bytes,
    node: str,
    holder: str,
    seconds: float = LIMITS.audit_window,
) -> Grant:
    """Let ``holder`` ask ``node`` for its record of a session of ``who``."""
    body = verify_pb2.GrantBody(
        version=VERSION,
        session=session,
        node=node,
        holder=holder,
        expires_ms=round((time.time() + seconds) * 1000),
    ).SerializeToString(deterministic=True)
    return Grant(body, who.sign(_CONTEXT + body))


def check_grant(shown: Grant, client: str, session: bytes, node: str, holder: str) -> None:
    """Raise unless ``client`` granted exactly this, and it still holds.

    Raises ``Malformed``, ``BadSignature`` or ``Unauthenticated``.
    """
    try:
        body = verify_pb2.GrantBody.FromString(shown.body)
    except DecodeError:
        raise Malformed("doesn't decode", field="grant") from None
    identity.verify(client, _CONTEXT + shown.body, shown.signature)
    if (body.version, body.session, body.node, body.holder) != (VERSION, session, node, holder):
        raise Unauthenticated("it is for something else", field="grant")
    if body.expires_ms < time.time() * 1000:
        raise Unauthenticated("it has expired", field="grant")
