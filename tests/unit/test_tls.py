"""A leaf counts only for the identity that vouches for it; every other server is named."""

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from hearthring.protocol import tls
from hearthring.protocol.errors import (
    BadInvitation,
    PeerUnreachable,
    WrongIdentity,
)
from hearthring.protocol.grpc_transport import GrpcTransport
from hearthring.protocol.identity import Identity
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.tls import Leaf, check_leaf, hello_bytes, make_leaf, membership, probe
from hearthring.protocol.transport import Method, Stream

WHO = Identity.new()
P256 = ec.generate_private_key(ec.SECP256R1())


def der(leaf: Leaf) -> bytes:
    return x509.load_pem_x509_certificate(leaf.certificate).public_bytes(serialization.Encoding.DER)


def certificate(key: Any = P256, *extensions: bytes) -> Leaf:
    """A self-signed leaf like ours, with any key and any values in libp2p's extension."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, tls.SERVER_NAME)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )
    for value in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(tls._LIBP2P, value), False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = builder.sign(key, algorithm)
    return Leaf(
        made.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        made.fingerprint(hashes.SHA256()),
    )


def vouch(key: Any, who: Identity = WHO, context: bytes = tls._CONTEXT) -> bytes:
    """The extension's value by which ``who`` vouches for a key."""
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return tls._signed_key(tls.identity.public_key_of(who.node_id), who.sign(context + public))


def test_a_leaf_is_its_identitys_and_nobody_elses() -> None:
    leaf = der(make_leaf(WHO))
    check_leaf(leaf, WHO.node_id)
    with pytest.raises(WrongIdentity, match=f"isn't {(other := Identity.new().node_id)}"):
        check_leaf(leaf, other)


def test_the_helpers_of_this_file_make_good_leaves() -> None:
    check_leaf(der(certificate(P256, vouch(P256))), WHO.node_id)


def test_a_leaf_outlasts_its_node() -> None:
    leaf = x509.load_pem_x509_certificate(make_leaf(WHO).certificate)
    assert leaf.not_valid_after_utc > dt.datetime.now(dt.UTC) + dt.timedelta(days=3650)
    assert leaf.not_valid_before_utc < dt.datetime.now(dt.UTC) - dt.timedelta(hours=12)


OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()
VOUCHED = vouch(P256)


@pytest.mark.parametrize(
    ("leaf", "why"),
    [
        (certificate(P256), "isn't a hearthring node"),
        (certificate(RSA, vouch(RSA)), "isn't a hearthring node"),
        (certificate(ED25519, vouch(ED25519)), "isn't a hearthring node"),
        (certificate(P256, b""), "isn't 12D3"),
        (certificate(P256, VOUCHED[:-1]), "isn't 12D3"),
        (certificate(P256, VOUCHED + b"\0"), "isn't 12D3"),
        (certificate(P256, VOUCHED[:-1] + bytes([VOUCHED[-1] ^ 1])), "isn't 12D3"),
        (certificate(P256, vouch(OTHER_KEY)), "isn't 12D3"),  # vouched for another leaf
        (certificate(P256, vouch(P256, context=b"")), "isn't 12D3"),  # signed for something else
        (certificate(P256, vouch(P256, Identity.new())), "isn't 12D3"),
    ],
)
def test_a_leaf_that_proves_nothing_is_refused(leaf: Leaf, why: str) -> None:
    with pytest.raises(WrongIdentity, match=why):
        check_leaf(der(leaf), WHO.node_id)


def test_a_thief_can_not_name_itself_beside_the_others_signature() -> None:
    thief = Identity.new()
    key = tls.identity.public_key_of(thief.node_id)
    mixed = tls._signed_key(key, VOUCHED[-64:])
    for node_id in (WHO.node_id, thief.node_id):
        with pytest.raises(WrongIdentity):
            check_leaf(der(certificate(P256, mixed)), node_id)


def test_the_extension_twice_is_refused() -> None:
    """OpenSSL hands such a leaf on; another parser mustn't fall over it."""
    once = der(certificate(P256, VOUCHED))
    other = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.2")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(name, name, P256.public_key(), 1, now, now)
    for oid in (tls._LIBP2P, other):
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, VOUCHED), False)
    two = builder.sign(P256, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    mine, theirs = (bytes.fromhex(f"2b0601040183a25a01{end}") for end in ("01", "02"))
    assert once.count(mine) == two.count(mine) == two.count(theirs) == 1
    with pytest.raises(WrongIdentity, match="isn't a hearthring node"):
        check_leaf(two.replace(theirs, mine), WHO.node_id)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("seed", range(4))
def test_no_mutated_leaf_raises_anything_else(seed: int) -> None:
    """What a hostile server sends goes through a parser with many moods."""
    draw, whole, passed = np.random.default_rng(seed), der(make_leaf(WHO)), 0
    for _ in range(2_000):
        changed = bytearray(whole)
        for _ in range(draw.integers(1, 4)):
            at = int(draw.integers(len(changed)))
            match int(draw.integers(3)):
                case 0:
                    changed[at] ^= 1 << int(draw.integers(8))
                case 1:
                    changed[at] = int(draw.integers(256))
                case _:
                    del changed[at : at + int(draw.integers(1, 5))]
        try:
            check_leaf(bytes(changed), WHO.node_id)
        except WrongIdentity:
            continue
        passed += 1
    assert passed < 2_000  # only TLS itself checks the leaf's own signature and dates


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """A server that isn't a node."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except OSError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n" * 10)
    await writer.drain()
    await reader.read()


async def hang_up(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    pass


async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(1 << 16):
        pass


async def test_a_server_without_tls_is_named() -> None:
    async with listening(talk) as address:
        with pytest.raises(PeerUnreachable, match="doesn't speak TLS") as caught:
            await probe(address, WHO.node_id)
    assert caught.value.field == address


async def test_a_server_that_hangs_up_is_named() -> None:
    async with listening(hang_up) as address:
        with pytest.raises(PeerUnreachable, match=r": (it hung up|connection reset)"):
            await probe(address, WHO.node_id)


async def test_a_server_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hearthring.protocol.tls.LIMITS", replace(LIMITS, connect=0.1))
    async with listening(say_nothing) as address:
        with pytest.raises(PeerUnreachable, match="no answer in time"):
            await probe(address, WHO.node_id)


async def test_nobody_listening_is_named() -> None:
    async with listening(hang_up) as address:
        pass
    with pytest.raises(PeerUnreachable, match="connection refused"):
        await probe(address, WHO.node_id)


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "é" * 70, ".", "nul\0"])
async def test_a_host_that_can_not_be_is_named(host: str) -> None:
    with pytest.raises((PeerUnreachable, BadInvitation)):
        await probe(f"{host}:9", WHO.node_id)


def server_context(leaf: Leaf, tmp_path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "leaf.pem").write_bytes(leaf.key + leaf.certificate)
    context.load_cert_chain(tmp_path / "leaf.pem")
    return context


async def test_a_tls_server_that_is_no_node_is_named(tmp_path: Path) -> None:
    context = server_context(certificate(RSA), tmp_path)
    async with listening(say_nothing, context) as address:
        with pytest.raises(WrongIdentity, match="isn't a hearthring node"):
            await probe(address, WHO.node_id)


async def test_a_probe_gives_the_leaf_that_the_node_shows(tmp_path: Path) -> None:
    leaf = make_leaf(WHO)
    async with listening(say_nothing, server_context(leaf, tmp_path)) as address:
        certificate, digest = await probe(address, WHO.node_id)
        with pytest.raises(WrongIdentity):
            await probe(address, Identity.new().node_id)
    assert digest == leaf.digest
    assert x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()) == digest


async def answer(stream: Stream) -> None:
    await stream.send(b"hello")


async def test_a_node_whose_leaf_has_run_out_is_a_named_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls, "make_leaf", lambda who: make_leaf(who, days=-0.5))
    server, caller = GrpcTransport(WHO), GrpcTransport(Identity.new())
    try:
        address = await server.serve("127.0.0.1:0", {Method.STATUS: answer})
        with pytest.raises(PeerUnreachable):
            await caller.dial(address, WHO.node_id, Method.STATUS)
    finally:
        await caller.close()
        await server.close()


def test_a_hello_is_bound_to_everything_it_says() -> None:
    said = (b"n" * 32, b"l" * 32, WHO.node_id, 1, "open", "1-1")
    others = (b"m" * 32, b"k" * 32, Identity.new().node_id, 2, "home", "1-2")
    seen = {hello_bytes(*said)}
    for place, other in enumerate(others):
        seen.add(hello_bytes(*said[:place], other, *said[place + 1 :]))  # type: ignore[arg-type]
    assert len(seen) == 7
    assert hello_bytes(b"ab", b"c", "d", 1, "e", "") != hello_bytes(b"a", b"bc", "d", 1, "e", "")


def test_membership_needs_the_key_and_the_same_hello() -> None:
    assert membership(None, b"x") == b""
    proofs = {membership(key, said) for key in (b"k" * 32, b"j" * 32) for said in (b"x", b"y")}
    assert len(proofs) == 4
