"""The one TLS mode: a server's certificate that its identity vouches for.

gRPC refuses ed25519 leaves and can't accept certificates of strangers. So the server makes a
self-signed P-256 leaf that carries, in libp2p's extension, the identity's public key and its
signature over the leaf's key. A caller fetches the leaf, checks that signature against the node id
it wants to reach, and uses exactly that leaf as its only root.
"""

import asyncio
import datetime as dt
import hmac
import os
import socket
import ssl
from dataclasses import dataclass
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hearthring.protocol import identity
from hearthring.protocol.errors import HearthringError, PeerUnreachable, WrongIdentity
from hearthring.protocol.invitation import split_address
from hearthring.protocol.limits import LIMITS

SERVER_NAME = "hearthring"
"""One name in every leaf: addresses prove nothing, keys do."""
_LIBP2P = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
_CONTEXT = b"libp2p-tls-handshake:"
_NOT_OURS = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
)
"""What ``cryptography`` raises over certificates that it can't or won't read."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A server's certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes
    digest: bytes
    """SHA-256 of the certificate in DER; callers sign it."""


def make_leaf(who: identity.Identity, days: float = 36_500) -> Leaf:
    """A fresh leaf that ``who`` vouches for. Nodes run for long, and its dates prove nothing."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SERVER_NAME)])
    public = identity.public_key_of(who.node_id)
    vouched = who.sign(_CONTEXT + _public_der(key.public_key()))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))  # home clocks are off
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(_LIBP2P, _signed_key(public, vouched)), False)
        .sign(key, hashes.SHA256())
    )
    return Leaf(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        certificate.fingerprint(hashes.SHA256()),
    )


def check_leaf(der: bytes, node_id: str) -> None:
    """Raise ``WrongIdentity`` unless the node with that id vouches for the leaf."""
    try:
        leaf = x509.load_der_x509_certificate(der)
        extension = leaf.extensions.get_extension_for_oid(_LIBP2P).value
        key = leaf.public_key()
        if not isinstance(extension, x509.UnrecognizedExtension) or not isinstance(
            key, ec.EllipticCurvePublicKey
        ):
            raise ValueError("not the form of our leaves")
        public = identity.public_key_of(node_id)
        length = len(_signed_key(public, bytes(64)))
        signature = extension.value[-64:]
        if len(extension.value) != length or extension.value != _signed_key(public, signature):
            raise WrongIdentity(f"the server isn't {node_id}", field="node id")
        identity.verify(node_id, _CONTEXT + _public_der(key), signature)
    except HearthringError as error:
        raise WrongIdentity(
            f"the server there isn't {node_id}",
            field="node id",
            mend="ask for a new invitation",
        ) from error
    except _NOT_OURS:
        raise WrongIdentity("the server there isn't a hearthring node", field="node id") from None


async def probe(address: str, node_id: str) -> tuple[bytes, bytes]:
    """Fetch and check a server's leaf: ``(PEM, SHA-256 of the DER)``.

    Raises ``PeerUnreachable`` or ``WrongIdentity``. Nothing is sent but the handshake.
    """
    host, port = split_address(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # who it is, is checked below, by the identity's signature
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(LIMITS.connect):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except TimeoutError:
        raise PeerUnreachable("no answer in time", field=address) from None
    except OSError as error:
        raise PeerUnreachable(_reason(error), field=address) from None
    except ValueError:  # a host that no name may be
        raise PeerUnreachable("no such host", field=address) from None
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    check_leaf(der, node_id)
    return ssl.DER_cert_to_PEM_cert(der).encode(), sha256(der).digest()


def hello_bytes(
    nonce: bytes, leaf_digest: bytes, caller: str, version: int, swarm: str, offer: str
) -> bytes:
    """What a caller signs: this server and its offer of versions, this connection's nonce, and who
    is calling."""
    said = (caller.encode(), str(version).encode(), swarm.encode(), offer.encode())
    fields = (nonce, leaf_digest, *said)
    return b"hearthring/hello/1" + b"".join(len(f).to_bytes(2, "big") + f for f in fields)


def membership(key: bytes | None, signed: bytes) -> bytes:
    """Proof of knowing a swarm's key, bound to one hello; empty in an open swarm."""
    return hmac.digest(key, signed, "sha256") if key else b""


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "what listens there doesn't speak TLS"
    if isinstance(error, socket.gaierror):
        return str(error.strerror).lower()
    if error.errno:  # asyncio puts the address into ``strerror``, and several into one error
        return os.strerror(error.errno).lower()
    return "it hung up" if isinstance(error, ConnectionError) else "nobody answers there"


def _public_der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _signed_key(public_key: bytes, signature: bytes) -> bytes:
    """libp2p's ``SignedKey``: SEQUENCE of the protobuf public key and the signature."""
    key = bytes.fromhex("08011220") + public_key
    inner = bytes([0x04, len(key)]) + key + bytes([0x04, len(signature)]) + signature
    return bytes([0x30, len(inner)]) + inner
