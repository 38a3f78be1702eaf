"""What a node and its directory's process say to each other: frames over the process's pipes.

A frame is a 4-byte big-endian length, then a JSON object.
"""

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import Any

from hearthring.protocol.errors import Malformed, TooLarge
from hearthring.protocol.limits import LIMITS

Frame = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DirectoryConfig:
    """How to run the directory.

    ``peers`` are multiaddrs that end in ``/p2p/NODE_ID``. With ``must_join`` the start fails when
    none of them answers; without, the directory starts alone and goes on trying.
    """

    identity: str
    host: str = "127.0.0.1"
    port: int = 0
    peers: tuple[str, ...] = ()
    announce_host: str = ""
    must_join: bool = True


def encode_frame(frame: Frame) -> bytes:
    """A frame as bytes. Raises ``TooLarge``."""
    body = json.dumps(frame, separators=(",", ":")).encode()
    if len(body) > LIMITS.message_bytes:
        raise TooLarge(f"{len(body)} bytes", field="directory frame")
    return len(body).to_bytes(4) + body


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; None at the end of the stream, also in the middle of a frame."""
    try:
        length = int.from_bytes(await reader.readexactly(4))
        if length > LIMITS.message_bytes:
            raise TooLarge(f"{length} bytes", field="directory frame")
        body = json.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except ValueError:
        raise Malformed("not JSON", field="directory frame") from None
    if not isinstance(body, dict):
        raise Malformed("not an object", field="directory frame")
    return body


def pack(signed: bytes) -> str:
    """Record bytes for a frame."""
    return base64.b64encode(signed).decode()


def unpack(text: str) -> bytes:
    """Record bytes from a frame."""
    return base64.b64decode(text)
