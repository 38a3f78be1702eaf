"""The disk budget of fetched parts: what was used the longest ago goes first.

Only files below ``parts/`` of the models folder are ever removed, so never a file of the user's,
and none that a running process holds a lock on.
"""

import fcntl
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hearthring.protocol.errors import BadOption, DiskFull

ENVIRONMENT: Final = "HEARTHRING_DISK"
FOLDER: Final = "parts"
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def read_size(text: str, field: str) -> int:
    """Bytes out of a text such as ``500MB``, ``20GB`` or ``0``. Raises ``BadOption``."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadOption(f"{text!r:.40} isn't a size", field=field, mend="for example 500MB or 20GB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def budget() -> int | None:
    """The budget in ``HEARTHRING_DISK``; ``None`` without one. Raises ``BadOption``."""
    text = os.environ.get(ENVIRONMENT)
    return read_size(text, ENVIRONMENT) if text else None


@dataclass(frozen=True, slots=True)
class PartFile:
    """A file below ``parts/``: its bytes on the disk, and when it was last used."""

    path: Path
    bytes: int
    used_ns: int


def part_files(root: Path) -> list[PartFile]:
    """Every fetched part of the models folder, and every one still coming; oldest use first."""
    found = []
    for path in (root / FOLDER).glob("*/*.*"):
        try:
            status = path.stat()
        except OSError:  # evicted meanwhile, or renamed
            continue
        used = max(status.st_atime_ns, status.st_mtime_ns)
        found.append(PartFile(path, status.st_blocks * 512, used))
    return sorted(found, key=lambda file: file.used_ns)


def prune(root: Path, most: int) -> list[PartFile]:
    """Remove parts until they take ``most`` bytes; returns what was removed.

    Parts in use stay, so it may end with more.
    """
    files = part_files(root)
    total, removed = sum(file.bytes for file in files), []
    for file in files:
        if total <= most:
            break
        if _remove(file.path):
            total -= file.bytes
            removed.append(file)
    return removed


def make_room(root: Path, need: int, most: int | None) -> None:
    """Make room for ``need`` more bytes within a budget. Raises ``DiskFull`` if there is none."""
    if most is not None:
        prune(root, max(0, most - need))
        used = sum(file.bytes for file in part_files(root))
        if used + need > most:
            raise DiskFull(
                f"{need >> 20} MiB more don't fit the budget of {most >> 20} MiB, "
                f"of which {used >> 20} MiB are in use",
                field=ENVIRONMENT,
                mend="raise the budget, or serve fewer layers with --max-layers",
            )
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if free < need:
        raise DiskFull(
            f"{need >> 20} MiB are needed, and {free >> 20} MiB are free", field=str(root)
        )


def _remove(path: Path) -> bool:
    """Remove a file unless somebody holds a lock on it."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(file)
    return True
