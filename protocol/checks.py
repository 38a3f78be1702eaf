"""What every decoder checks before it builds anything: that bytes parse, and counts and lengths."""

from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from hearthring.protocol.errors import Malformed, TooLarge
from hearthring.protocol.limits import LIMITS

M = TypeVar("M", bound=Message)


def parse(kind: type[M], data: bytes) -> M:
    """A protobuf message. Raises ``TooLarge`` or ``Malformed``."""
    if len(data) > LIMITS.message_bytes:
        raise TooLarge(f"{len(data)} bytes", field=kind.DESCRIPTOR.name)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise Malformed("doesn't decode", field=kind.DESCRIPTOR.name) from None


def count(field: str, items: Any, most: int) -> None:
    """Raise ``TooLarge`` for more items than a field may have."""
    if len(items) > most:
        raise TooLarge(f"{len(items)}, at most {most}", field=field)


def exactly(field: str, data: bytes, length: int) -> None:
    """Raise ``Malformed`` for another length."""
    if len(data) != length:
        raise Malformed(f"{len(data)} bytes instead of {length}", field=field)
