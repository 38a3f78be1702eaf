"""The user's memory of nodes: where it is kept, and how it gets in and out."""

from collections.abc import Callable
from pathlib import Path

import platformdirs

from hearthring.protocol.errors import BadEvidence, BadOption
from hearthring.verify.evidence_store import EXPORT_BYTES, Reputation
from hearthring.verify.reputation import Standing


def open_reputation(data: Path | None = None) -> Reputation:
    """The user's, in the folder of the client's identity; in memory if that can't be written."""
    folder = data or Path(platformdirs.user_data_dir("hearthring"))
    try:
        return Reputation(folder / "reputation.db")
    except BadEvidence:
        return Reputation()


def standing_by(memory: Callable[[str], float] | None) -> Callable[[str], Standing]:
    """What is known of nodes; of none anything if the memory isn't the user's, or there is none."""
    return memory.standing if isinstance(memory, Reputation) else lambda _: Standing()


def read_export(file: Path) -> bytes:
    """An export's bytes. Raises ``BadOption``."""
    try:
        with file.open("rb") as opened:
            return opened.read(EXPORT_BYTES + 1)
    except OSError as error:
        raise BadOption(f"{file}: {(error.strerror or str(error)).lower()}", field="file") from None


def write_export(file: Path, data: bytes) -> None:
    """Write an export. Raises ``BadOption``."""
    try:
        file.write_bytes(data)
    except OSError as error:
        raise BadOption(f"{file}: {(error.strerror or str(error)).lower()}", field="file") from None
