"""The private folders for p2pd's sockets, and how those that a kill left behind are removed.

``fcntl`` is imported when it is needed: Windows hasn't got it, and imports this module too.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "hearthring-dht-"
_SOCKET_PATH = 103
"""What fits a unix socket's address everywhere."""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A private folder for p2pd's sockets, locked while this process lives, gone afterwards."""
    import fcntl

    path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_temporary()))
    try:
        with (path / "lock.new").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Under its final name only once it is held, so that no sweep comes between.
            (path / "lock.new").rename(path / "lock")
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sweep() -> None:
    """Remove the socket folders of directory processes that were killed.

    Only folders of this user whose lock nobody holds: the kernel drops a lock with its process.
    """
    import fcntl

    for path in Path(_temporary()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (path / "lock").open("rb") as lock:
            if os.fstat(lock.fileno()).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)


def _temporary() -> str:
    """Where the socket folders go: the temporary directory, unless sockets' names won't fit."""
    where = tempfile.gettempdir()
    name = len(f"/{PREFIX}12345678/p2pclient-12345678901.sock")
    return where if len(os.fsencode(where)) + name <= _SOCKET_PATH else "/tmp"  # noqa: S108
