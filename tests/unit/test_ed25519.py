"""Signatures by either library: the same bytes, and the same taken and refused."""

from hashlib import sha512

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hearthring.protocol import ed25519
from hearthring.protocol.errors import Malformed
from hearthring.protocol.identity import node_id_of, public_key_of

P, ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
SIGN_BIT = 1 << 255
# RFC 8032, section 7.1, test 3.
SEED = bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
PUBLIC = bytes.fromhex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
MESSAGE = bytes.fromhex("af82")
SIGNATURE = bytes.fromhex(
    "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
    "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
)
KEY, HOLDER = Ed25519PrivateKey.from_private_bytes(SEED), Ed25519PublicKey.from_public_bytes(PUBLIC)


@pytest.fixture(params=["whatever is here", "no libsodium"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways, on a machine that has libsodium."""
    if request.param == "no libsodium":
        monkeypatch.setattr(ed25519, "sodium", None)


def holds(message: bytes = MESSAGE, signature: bytes = SIGNATURE) -> bool:
    return ed25519.verify(HOLDER, PUBLIC, message, signature)


def with_the_neutral_r() -> bytes:
    """A signature over ``MESSAGE`` that its holder makes with a nonce of zero."""
    scalar = int.from_bytes(sha512(SEED).digest()[:32], "little")
    scalar = scalar & (1 << 254) - 8 | 1 << 254
    point = (1).to_bytes(32, "little")
    challenge = int.from_bytes(sha512(point + PUBLIC + MESSAGE).digest(), "little")
    return point + (challenge * scalar % ORDER).to_bytes(32, "little")


@pytest.mark.usefixtures("library")
def test_the_standards_vector() -> None:
    sign = ed25519.signer(KEY)
    assert sign(MESSAGE) == SIGNATURE
    assert holds()
    for length in (0, 1, 32, 5000):
        message = bytes(range(250)) * (length // 250 + 1)
        assert sign(message[:length]) == KEY.sign(message[:length])
        assert holds(message[:length], sign(message[:length]))


@pytest.mark.usefixtures("library")
def test_what_was_altered_does_not_hold() -> None:
    for at in range(64):
        altered = bytearray(SIGNATURE)
        altered[at] ^= 1
        assert not holds(signature=bytes(altered))
    assert not holds(message=MESSAGE + b"\0")
    for other in (b"", SIGNATURE[:-1], SIGNATURE + b"\0"):
        assert not holds(signature=other)


@pytest.mark.usefixtures("library")
def test_a_signature_has_one_writing() -> None:
    again = int.from_bytes(SIGNATURE[32:], "little") + ORDER
    assert not holds(signature=SIGNATURE[:32] + again.to_bytes(32, "little"))


@pytest.mark.usefixtures("library")
def test_an_r_of_small_order_is_refused_though_the_equation_holds() -> None:
    signature = with_the_neutral_r()
    HOLDER.verify(signature, MESSAGE)  # OpenSSL alone would take it
    assert not holds(signature=signature)


@pytest.mark.parametrize("y", [*sorted(ed25519._SMALL), P, P + 1, P + 5, 2**255 - 1])
@pytest.mark.parametrize("sign", [0, SIGN_BIT])
def test_a_key_that_fits_any_message_or_has_two_writings_is_nobodys(y: int, sign: int) -> None:
    with pytest.raises(Malformed, match="node id"):
        public_key_of(node_id_of((y | sign).to_bytes(32, "little")))


def test_the_points_of_small_order_are_all_there() -> None:
    curve = -121665 * pow(121666, -1, P) % P

    def twice(y: int) -> int:  # of a point's y alone, by the curve's equation
        x = (y * y - 1) * pow(curve * y * y + 1, -1, P) % P
        return (y * y + x) * pow(1 - curve * x * y * y, -1, P) % P

    eighths = {y for y in ed25519._SMALL if twice(twice(twice(y))) == 1}
    assert eighths == ed25519._SMALL
    assert len(eighths) == 5  # eight points: two each, but of orders one and two
