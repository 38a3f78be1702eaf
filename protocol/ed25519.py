"""ed25519 signatures (RFC 8032): by libsodium where this machine has it, else by OpenSSL.

Senders sign every step and receivers check it, amid engines that empty the processor's caches.
libsodium touches little code, takes half the time, and checks without the interpreter's lock.
Which library a machine has decides nothing else. Signatures are the same bytes, and of what may
count as one both take what libsodium takes: no key and no R of small order, which would fit many
messages, and no key written otherwise than the standard does.
"""

import ctypes
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Sign = Callable[[bytes], bytes]
SIGNATURE_BYTES = 64

_P = 2**255 - 19
_EIGHTH = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL = frozenset((0, 1, _P - 1, _EIGHTH, _P - _EIGHTH))
"""The y of all points whose order divides eight."""
_SODIUM = ("libsodium.so.23", "libsodium.so.26", "libsodium.23.dylib", "libsodium.26.dylib")


class _Sodium:
    """libsodium's functions. Raises ``OSError`` where there is none, or it doesn't start."""

    def __init__(self, name: str) -> None:
        library = ctypes.CDLL(name)
        if library.sodium_init() < 0:
            raise OSError(f"{name} doesn't start")
        text, size, place = ctypes.c_char_p, ctypes.c_ulonglong, ctypes.c_void_p
        self.verify = library.crypto_sign_ed25519_verify_detached
        self.verify.argtypes = text, text, size, text
        # Who signs is awaited, and would have to wait for the interpreter's lock behind others.
        self.sign = ctypes.PyDLL(name).crypto_sign_ed25519_detached
        self.sign.argtypes = place, place, text, size, text


def _load() -> _Sodium | None:
    for name in _SODIUM:
        try:
            return _Sodium(name)
        except (OSError, AttributeError):
            continue
    return None


sodium = _load()
"""None where this machine has no libsodium."""


def signer(key: Ed25519PrivateKey) -> Sign:
    """What signs with a key in the shortest time; to be called by one thread at a time."""
    if sodium is None:
        return key.sign
    made, sign = ctypes.create_string_buffer(SIGNATURE_BYTES), sodium.sign
    secret = key.private_bytes_raw() + key.public_key().public_bytes_raw()

    def by_sodium(message: bytes) -> bytes:
        sign(made, None, message, len(message), secret)
        return made.raw

    return by_sodium


def sound(public: bytes) -> bool:
    """Whether 32 bytes can be anybody's key: as the standard writes it, and not of small order."""
    y = _y(public)
    return y < _P and y not in _SMALL


def verify(key: Ed25519PublicKey, public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether a signature is of the holder of a ``sound`` key, given in both its forms."""
    if len(signature) != SIGNATURE_BYTES:
        return False
    if sodium is not None:
        return bool(sodium.verify(signature, message, len(message), public) == 0)
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return _y(signature[:32]) not in _SMALL


def _y(point: bytes) -> int:
    """A written point without the sign of its x."""
    return int.from_bytes(point, "little") & ((1 << 255) - 1)
