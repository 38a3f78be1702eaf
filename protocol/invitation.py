"""Invitations: the one line that lets somebody join, ``hearthring://HOST:PORT/NODE_ID``."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import parse_qs, urlencode, urlsplit

from hearthring.protocol.errors import BadInvitation, Malformed
from hearthring.protocol.identity import public_key_of

OPEN_SWARM = "open"


def swarm_id(key: bytes | None) -> str:
    """The public name of a swarm: ``open``, or a hash that doesn't reveal the key."""
    return sha256(b"hearthring/swarm/1" + key).hexdigest()[:32] if key else OPEN_SWARM


def split_address(address: str, field: str = "address") -> tuple[str, int]:
    """``HOST:PORT`` or ``[V6]:PORT`` as host and port. Raises ``BadInvitation``."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    # Nothing may be left over: what is checked here is what will be dialled.
    if (
        not host
        or port is None
        or any(map(str.isspace, address))
        or join_address(host, port).lower() != address.lower()
    ):
        raise BadInvitation(f"{address!r} is not HOST:PORT", field=field)
    return host, port


def join_address(host: str, port: int) -> str:
    """``HOST:PORT``, with brackets round an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Invitation:
    """Where a node listens and who it must prove to be; the swarm's key where it has one."""

    host: str
    port: int
    node_id: str
    key: bytes | None = None

    @staticmethod
    def parse(text: str) -> "Invitation":
        """Read an invitation. Raises ``BadInvitation`` that says which part is wrong."""
        mend = "it looks like hearthring://HOST:PORT/NODE_ID; copy the whole line"
        text = text.strip().removeprefix("invitation ").strip()
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise BadInvitation(
                "host and port don't parse", field="invitation", mend=mend
            ) from None
        if parts.scheme != "hearthring":
            raise BadInvitation("doesn't begin with hearthring://", field="invitation", mend=mend)
        if not host or not port or parts.username is not None:
            raise BadInvitation("no HOST:PORT", field="invitation", mend=mend)
        node_id = parts.path.removeprefix("/")
        try:
            public_key_of(node_id)
        except Malformed:
            raise BadInvitation(
                "no node id after the address", field="invitation", mend=mend
            ) from None
        key = None
        for text in parse_qs(parts.query, keep_blank_values=True).get("key", ()):
            try:
                key = bytes.fromhex(text)
            except ValueError:
                raise BadInvitation("key isn't hexadecimal", field="invitation") from None
            if not key:  # without it, this would be an invitation to the open swarm
                raise BadInvitation("the key is missing", field="invitation", mend=mend)
        return Invitation(host, port, node_id, key)

    @property
    def address(self) -> str:
        """``HOST:PORT``."""
        return join_address(self.host, self.port)

    def __str__(self) -> str:
        """The line to hand on."""
        query = "?" + urlencode({"key": self.key.hex()}) if self.key else ""
        return f"hearthring://{self.address}/{self.node_id}{query}"


def key_of(invitations: Iterable[Invitation], own: bytes | None = None) -> bytes | None:
    """The key of the swarm that these invite to, which ``own`` must be; None for the open swarm.

    Seeds whose invitation was copied without its key are of the same swarm. Raises
    ``BadInvitation`` for keys of several.
    """
    keys = {key for key in (own, *(one.key for one in invitations)) if key}
    if len(keys) > 1:
        raise BadInvitation(
            "several swarms' keys",
            field="swarm key",
            mend="join one swarm: the keys of --join and --swarm-key must be the same",
        )
    return next(iter(keys), None)
