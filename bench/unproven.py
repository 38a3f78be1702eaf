"""A node, or a client, that hashes, signs and checks no rows: what proofs are measured against.

Run: python -m bench.unproven <flags of hearthring node>

It works with its like only: row hashes and step signatures are constants, and nobody looks at
them. Everything else, handshakes and receipts included, is as ever.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

from hearthring.client import hearing, sending
from hearthring.node import stage_session
from hearthring.protocol import identity
from hearthring.protocol.messages import Row, SignedRows, Step

_HASH, _SIGNATURE = bytes(32), bytes(64)


def _no_hashes(*arguments: Any) -> list[bytes]:
    return [_HASH] * arguments[-1]


def _no_claim(*_: Any) -> bytes:
    return _HASH


class _NoCheck:
    """A signature that nobody looks at."""

    def __init__(self, _: str, step: Step, live: tuple[Row, ...], *__: Any) -> None:
        self._step, self._ids = step, tuple(row.id for row in live)

    def hashes(self) -> tuple[bytes, ...]:
        """Constants."""
        return (_HASH,) * len(self._ids)

    def begin(self) -> None:
        """Nothing to do."""

    def confirm(self) -> SignedRows:
        """The same as anything that is proven."""
        step = self._step
        return SignedRows(step.epoch, step.step_id, self._ids, self.hashes(), step.signature)


@contextmanager
def unproven(*more: ModuleType) -> Iterator[None]:
    """Neither rows nor steps are proven within; ``more``: modules that do so beside the package."""
    sign, verify = identity.Identity.sign, identity.verify

    def unsigned(who: identity.Identity, message: bytes) -> bytes:
        return _SIGNATURE if message is _HASH else sign(who, message)

    def unchecked(node: str, message: bytes, signature: bytes) -> None:
        if message is not _HASH:
            verify(node, message, signature)

    with ExitStack() as stack:
        for module in (stage_session, sending, *more):
            stack.enter_context(mock.patch.object(module, "row_hashes", _no_hashes))
            stack.enter_context(mock.patch.object(module, "claim", _no_claim))
        for module in (stage_session, hearing):
            stack.enter_context(mock.patch.object(module, "Check", _NoCheck))
        stack.enter_context(mock.patch.object(identity.Identity, "sign", unsigned))
        stack.enter_context(mock.patch.object(identity, "verify", unchecked))
        yield


if __name__ == "__main__":
    from hearthring.cli import main

    with unproven():
        sys.exit(main(["node", *sys.argv[1:]]))
