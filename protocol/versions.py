"""Which protocol versions two peers have in common.

A node offers its range with its nonce; the caller picks the highest that both speak, and signs the
choice together with the offer as it saw it. So nobody between them can talk them down to an older
version: the signature would be over another offer.
"""

import re
from dataclasses import dataclass

from hearthring.protocol.errors import Malformed, VersionMismatch
from hearthring.protocol.records import PROTOCOL_VERSION

_RANGE = re.compile(r"([1-9][0-9]{0,5})-([1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True)
class Versions:
    """All versions from ``oldest`` to ``newest``."""

    oldest: int
    newest: int

    @staticmethod
    def parse(text: str) -> "Versions":
        """What ``str`` of a range gives. Raises ``Malformed``."""
        found = _RANGE.fullmatch(text)
        if found is None or int(found[1]) > int(found[2]):
            raise Malformed("not a range of versions", field="versions")
        return Versions(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        """``OLDEST-NEWEST``."""
        return f"{self.oldest}-{self.newest}"

    def __contains__(self, version: int) -> bool:
        """Whether a version is spoken."""
        return self.oldest <= version <= self.newest

    def common(self, theirs: "Versions") -> int:
        """The highest version that both speak. Raises ``VersionMismatch`` if there is none."""
        best = min(self.newest, theirs.newest)
        if best in self and best in theirs:
            return best
        raise VersionMismatch(
            f"the peer speaks {theirs}, this side {self}",
            field="versions",
            mend="update the older side",
        )


SPOKEN = Versions(1, PROTOCOL_VERSION)
"""What this release speaks."""
