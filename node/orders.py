"""What clients order is checked field by field, before anything is allocated for it."""

from hashlib import sha256

from hearthring.protocol import identity
from hearthring.protocol.errors import BadShape
from hearthring.protocol.invitation import split_address
from hearthring.protocol.messages import Open, Replay, Reroute


def check_wish(wish: Open) -> None:
    """Refuse a wish whose fields can't be meant. Raises ``BadShape`` or what a bad key raises."""
    if wish.max_rows < 1:
        raise BadShape("at least one row", field="open.max_rows")
    for name in ("model_id", "fingerprint", "previous_fingerprint"):
        _check_hash(getattr(wish, name), f"open.{name}")
    identity.public_key_of(wish.previous)
    identity.public_key_of(wish.next)


def check_reroute(order: Reroute, client: str) -> None:
    """Refuse an order whose fields can't be meant; ``client`` is who gave it."""
    _check_hash(order.previous_fingerprint, "reroute.previous_fingerprint")
    identity.public_key_of(order.previous)
    identity.public_key_of(order.next)
    if order.next != client:
        split_address(order.next_address, "reroute.next_address")


def check_replay(order: Replay) -> None:
    """Refuse an order to send rows to somebody who can't be meant."""
    if order.next:
        identity.public_key_of(order.next)
        split_address(order.next_address, "replay.next_address")


def _check_hash(value: str, field: str) -> None:
    if len(value) != 2 * sha256().digest_size or not set(value) <= set("0123456789abcdef"):
        raise BadShape("not a SHA-256 in hexadecimal", field=field)
