"""Who a peer is: one ed25519 key, written as its libp2p peer id (``12D3KooW…``).

The id contains the public key, so whoever knows an id can check signatures without asking anyone.
"""

import contextlib
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import base58
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from hearthring.protocol import ed25519
from hearthring.protocol.errors import BadIdentityFile, BadSignature, Malformed

_ID_PREFIX = bytes.fromhex("002408011220")
"""Identity multihash of a libp2p ``PublicKey`` message of type Ed25519."""
_FILE_PREFIX = bytes.fromhex("08011240")
"""Start of a libp2p ``PrivateKey`` message of type Ed25519: 32 bytes seed + 32 bytes public."""


def node_id_of(public_key: bytes) -> str:
    """The node id of a 32-byte public key."""
    return base58.b58encode(_ID_PREFIX + public_key).decode()


def public_key_of(node_id: str) -> bytes:
    """The 32-byte public key inside a node id. Raises ``Malformed``."""
    try:
        raw = base58.b58decode(node_id) if len(node_id) <= 64 else b""
    except ValueError:
        raw = b""
    public = raw[len(_ID_PREFIX) :]
    # The decoder forgives blanks: a key must have one id only.
    if len(public) != 32 or node_id_of(public) != node_id or not ed25519.sound(public):
        raise Malformed("not the id of an ed25519 key (12D3KooW…)", field="node id")
    return public


def verify(node_id: str, message: bytes, signature: bytes) -> None:
    """Check a signature of the peer with that id. Raises ``BadSignature`` or ``Malformed``."""
    if not ed25519.verify(*_key_of(node_id), message, signature):
        raise BadSignature(f"not signed by {node_id}", field="signature")


@lru_cache(1024)
def _key_of(node_id: str) -> tuple[Ed25519PublicKey, bytes]:
    """Kept, because reading an id takes as long as the check: neighbours sign every step."""
    public = public_key_of(node_id)
    return Ed25519PublicKey.from_public_bytes(public), public


@dataclass(frozen=True, slots=True)
class Identity:
    """A key pair. The private half never leaves this object but through ``libp2p_bytes``."""

    node_id: str
    _key: Ed25519PrivateKey

    @staticmethod
    def new() -> "Identity":
        """A fresh identity that exists only in memory."""
        return Identity._of(Ed25519PrivateKey.generate())

    @staticmethod
    def load_or_create(path: Path) -> "Identity":
        """The identity in ``path``; a new one is written there (mode 0400) if there is none.

        The file is libp2p's own key format, so that the directory runs under the same id. Whoever
        creates it at once ends up with the same key. Raises ``BadIdentityFile``.
        """
        try:
            if not path.exists():
                Identity.new()._write(path)
            raw = path.read_bytes()
        except OSError as error:
            raise BadIdentityFile(error.strerror or "can't be read", field=str(path)) from None
        return Identity.read(raw, path)

    @staticmethod
    def read(raw: bytes, path: Path, mend: str = "move it away to get a new one") -> "Identity":
        """The identity that a key file held. Raises ``BadIdentityFile``, which names ``path``."""
        if len(raw) == 68 and raw.startswith(_FILE_PREFIX):
            found = Identity._of(Ed25519PrivateKey.from_private_bytes(raw[4:36]))
            if found.libp2p_bytes() == raw:  # its public half belongs to its private one
                return found
        raise BadIdentityFile("not a libp2p ed25519 key", field=str(path), mend=mend)

    def _write(self, path: Path) -> None:
        """Create ``path`` whole, unless somebody else was faster."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self.libp2p_bytes())
            os.chmod(fresh, 0o400)
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
        finally:
            os.unlink(fresh)

    @staticmethod
    def of_seed(seed: bytes) -> "Identity":
        """The identity of an ed25519 key's 32 secret bytes."""
        return Identity._of(Ed25519PrivateKey.from_private_bytes(seed))

    @staticmethod
    def _of(key: Ed25519PrivateKey) -> "Identity":
        return Identity(node_id_of(key.public_key().public_bytes_raw()), key)

    def libp2p_bytes(self) -> bytes:
        """The private key as libp2p writes it to a file."""
        return _FILE_PREFIX + self._key.private_bytes_raw() + public_key_of(self.node_id)

    def sign(self, message: bytes) -> bytes:
        """A 64-byte ed25519 signature."""
        return self._key.sign(message)

    def signer(self) -> ed25519.Sign:
        """The same for one thread at a time, and sooner."""
        return ed25519.signer(self._key)
