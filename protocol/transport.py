"""The seam between peers: named streams of messages between two proven identities.

Two implementations: ``protocol/grpc_transport.py`` over TLS, and ``protocol/memory.py`` in one
process for unit tests. Either way a handler knows who is calling before it sees a byte.
"""

from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Protocol

from hearthring.protocol.identity import Identity


class Method(StrEnum):
    """The streams of ``proto/ring.proto``."""

    ATTACH = "Attach"
    PASS = "Pass"  # noqa: S105
    DIRECTORY = "Directory"
    STATUS = "Status"
    LAYERS = "Layers"
    VERIFY = "Verify"
    CELLS = "Cells"


class Stream(Protocol):
    """An open stream. One task may send while another receives."""

    @property
    def peer(self) -> str:
        """The node id that the other side has proven."""

    async def send(self, data: bytes) -> None:
        """Hand one message over. Returns when it may be forgotten here.

        Raises ``DeadlineExceeded`` if the reader is too slow, or the error the stream ended with.
        """

    async def receive(self) -> bytes | None:
        """The next message; ``None`` when the other side has ended the stream properly.

        Raises the peer's own error (named, see ``errors.from_wire``), or ``PeerUnreachable`` when
        the connection broke: an end without a proper end is always an error. Once a call was
        cancelled, nothing more can be received: its message may be lost.
        """

    async def close(self) -> None:
        """End this side; idempotent, never raises. A caller's close also ends the handler."""


Handler = Callable[[Stream], Awaitable[None]]
"""Serves one stream: returning ends it properly, a ``HearthringError`` ends it by name."""


class Transport(Protocol):
    """A process's way to its peers."""

    @property
    def identity(self) -> Identity:
        """Who this process is."""

    async def dial(self, address: str, node_id: str, method: Method) -> Stream:
        """Open a stream to a node that must prove to be ``node_id``.

        Raises ``PeerUnreachable``, ``WrongIdentity``, or what the peer refused with. Connections
        are pooled; streams are not.
        """

    async def serve(self, address: str, handlers: Mapping[Method, Handler]) -> str:
        """Listen at ``HOST:PORT`` (port 0: any) and return the address bound.

        Raises ``PortInUse``.
        """

    async def close(self) -> None:
        """End every stream and stop listening. Idempotent."""
