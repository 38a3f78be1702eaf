"""Every error that hearthring raises on purpose.

::

    HearthringError                 70  anything below
    ├── UsageError                  64  what was asked for can't be meant
    │   ├── BadInvitation
    │   ├── BadOption
    │   ├── UnknownModel
    │   ├── LayersOutOfRange
    │   └── PromptTooLong
    ├── DataError                   65  a file isn't what it should be
    │   ├── BadModelFile
    │   ├── BadIdentityFile
    │   ├── BadProof
    │   ├── BadEvidence
    │   ├── BadMemory
    │   └── BadDraft
    ├── Unavailable                 69  something that is needed isn't there now
    │   ├── ModelNotHere
    │   ├── DiskFull
    │   ├── PortInUse
    │   ├── PeerUnreachable
    │   │   └── SeedUnreachable
    │   ├── NoRoute
    │   ├── DirectoryDown
    │   ├── DeadlineExceeded
    │   └── StageFailed
    ├── EngineError                 70  the engine can't do, or can't represent, what it should
    │   ├── EngineUnavailable
    │   ├── ResidualOverflow
    │   └── OutOfSlots
    └── ProtocolError               76  a peer broke the rules
        ├── Malformed
        │   ├── NonFinite
        │   └── BadShape
        ├── TooLarge
        ├── QuotaExceeded
        ├── Unauthenticated
        │   ├── BadSignature
        │   ├── WrongIdentity
        │   └── WrongSwarm
        ├── VersionMismatch
        ├── UnknownSession
        ├── UnknownRow
        ├── OutOfOrder
        ├── StaleEpoch
        ├── WrongClass
        ├── BadReceipt
        └── BadOpening

The number is the exit code of a command that ends with the error. Each error is one line for a
person: what is wrong, the ``field`` it is about, and the ``mend`` if there is one. Errors travel
between peers by class name; a name from a newer peer becomes plain ``ProtocolError``.
"""

from typing import ClassVar


class HearthringError(Exception):
    """Root of the tree. ``str(error)`` is one line that names the field and the mend."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, field: str = "", mend: str = "") -> None:
        super().__init__(message)
        self.message, self.field, self.mend = message, field, mend

    def __str__(self) -> str:
        """One line: ``field: message (mend)``."""
        line = f"{self.field}: {self.message}" if self.field else self.message
        return f"{line} ({self.mend})" if self.mend else line


class UsageError(HearthringError):
    """What was asked for can't be meant."""

    exit_code = 64


class BadInvitation(UsageError):
    """An invitation that doesn't parse."""


class BadOption(UsageError):
    """An option's value is outside what it allows."""


class UnknownModel(UsageError):
    """A model that is neither an alias, nor a path, nor in the cache."""


class LayersOutOfRange(UsageError):
    """A layer window outside the model."""


class PromptTooLong(UsageError):
    """Prompt and answer don't fit the model's context."""


class DataError(HearthringError):
    """A file isn't what it should be."""

    exit_code = 65


class BadModelFile(DataError):
    """A model file that is truncated, garbage, changed since import, or of an unknown kind."""


class BadIdentityFile(DataError):
    """An identity file that holds no ed25519 key."""


class BadProof(DataError):
    """A proof that doesn't parse, or was altered after it was signed."""


class BadEvidence(DataError):
    """A file of evidence about nodes that doesn't parse, or was altered after it was signed."""


class BadMemory(DataError):
    """The file of remembered texts isn't one, or can't be used."""


class BadDraft(DataError):
    """A file of a trained draft, or of its training, isn't one, or belongs to another model."""


class Unavailable(HearthringError):
    """Something that is needed isn't there now; trying again later may help.

    If it ended a request, ``unfinished`` is what there was of it, for ``AsyncClient.resume``.
    """

    exit_code = 69
    unfinished: object = None


class ModelNotHere(Unavailable):
    """The model is known, but its weights aren't on this machine."""


class DiskFull(Unavailable):
    """No room for a file, on the disk or within the budget the user set."""


class PortInUse(Unavailable):
    """The listening address is taken."""


class PeerUnreachable(Unavailable):
    """A peer doesn't answer at its address."""


class SeedUnreachable(PeerUnreachable):
    """None of the invitations leads to a node that answers."""


class NoRoute(Unavailable):
    """The known nodes don't cover every layer. ``missing`` lists the windows nobody serves."""

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        mend: str = "",
        missing: tuple[tuple[int, int], ...] = (),
    ) -> None:
        super().__init__(message, field=field, mend=mend)
        self.missing = missing


class DirectoryDown(Unavailable):
    """The directory process doesn't answer."""


class DeadlineExceeded(Unavailable):
    """A peer didn't answer in time."""


class StageFailed(Unavailable):
    """A stage ended in the middle of a session."""


class EngineError(HearthringError):
    """The engine can't do, or can't represent, what it should."""


class EngineUnavailable(EngineError):
    """The engine asked for can't run here."""


class ResidualOverflow(EngineError):
    """A residual exceeds the residual type's range. Never the misbehaviour of a peer."""


class OutOfSlots(EngineError):
    """No KV slot is left for a row."""


class ProtocolError(HearthringError):
    """A peer broke the rules."""

    exit_code = 76


class Malformed(ProtocolError):
    """Bytes that don't decode to the message they should be."""


class NonFinite(Malformed):
    """States with an infinity or a NaN."""


class BadShape(Malformed):
    """A tensor whose shape, type and length disagree, or aren't what the session agreed on."""


class TooLarge(ProtocolError):
    """A message or count beyond ``protocol/limits.py``."""


class QuotaExceeded(ProtocolError):
    """More sessions, streams or KV rows than one peer may hold."""


class Unauthenticated(ProtocolError):
    """A peer didn't prove who it is."""


class BadSignature(Unauthenticated):
    """A signature that doesn't match."""


class WrongIdentity(Unauthenticated):
    """A peer proved to be somebody else than expected."""


class WrongSwarm(Unauthenticated):
    """A peer of another swarm."""


class VersionMismatch(ProtocolError):
    """A peer speaks a protocol version that this one doesn't."""


class UnknownSession(ProtocolError):
    """A message for a session that isn't open here."""


class UnknownRow(ProtocolError):
    """A parent, commit or drop that names a row never seen."""


class OutOfOrder(ProtocolError):
    """A step, row id or position that doesn't follow the one before."""


class StaleEpoch(ProtocolError):
    """A frame of an epoch that is over."""


class WrongClass(ProtocolError):
    """A numerics class or residual type other than the session agreed on."""


class BadReceipt(ProtocolError):
    """A receipt that contradicts what was sent."""


class BadOpening(ProtocolError):
    """An opening that isn't of what was committed to, or not all of what was asked for."""


def _tree(root: type[HearthringError]) -> dict[str, type[HearthringError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


BY_NAME = _tree(HearthringError)
"""Class by name, for errors that arrive from a peer."""


def one_line(text: str) -> str:
    """A peer's words, fit for a terminal: whatever isn't printed becomes a space."""
    return "".join(char if char.isprintable() else " " for char in text)


def from_wire(name: str, message: str, field: str, mend: str) -> HearthringError:
    """The error a peer named; ``ProtocolError`` when this version doesn't know the name."""
    error = BY_NAME.get(name, ProtocolError)
    return error(one_line(message), field=one_line(field), mend=one_line(mend))
