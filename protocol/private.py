"""Files that nobody but their owner may read: keys, memories, what somebody has asked."""

import os
import stat
from pathlib import Path


def private_file(path: Path) -> None:
    """Make sure that ``path`` is there, and open to its owner alone (mode 0600).

    An empty file is made where there is none, in a folder of the owner's (mode 0700 if it is new).
    One of this user that others may read is closed to them. What is in it stays. Raises
    ``OSError``.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(handle)
        if stat.S_IMODE(found.st_mode) & 0o077 and found.st_uid == os.geteuid():
            os.fchmod(handle, 0o600)
    finally:
        os.close(handle)
