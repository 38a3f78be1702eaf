"""A node, or a client, that hashes, signs and checks no rows: what proofs are measured against.

Run: python -m bench.unproven <flags of hearthring node>

It works with its like only: row hashes and step signatures are constants, and nobody looks at
them. Everything else, handshakes and receipts included, is as ever.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

from hearthring.client import hearing
from hearthring.node import stage_session
from hearthring.protocol.messages import Row, SignedRows, Step
from hearthring.verify.sealing import Seal

_HASH, _SIGNATURE = bytes(32), bytes(64)


def _no_seal(_: Seal, __: int, rows: Sequence[Row], ___: Any) -> tuple[list[bytes], bytes]:
    return [_HASH] * len(rows), _SIGNATURE


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
    """Neither rows nor steps are proven within; ``more``: modules that check beside the package."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Seal, "put", _no_seal))
        for module in (stage_session, hearing, *more):
            stack.enter_context(mock.patch.object(module, "Check", _NoCheck))
        yield


if __name__ == "__main__":
    from hearthring.cli import main

    with unproven():
        sys.exit(main(["node", *sys.argv[1:]]))
