"""Files that several processes change: locks between them, and writes that happen whole."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO


def locked(path: Path) -> AbstractContextManager[None]:
    """Open ``path`` now, hold its lock from entering to leaving the context.

    Waits while another process or thread holds it; a process that dies lets go. Raises ``OSError``
    at once when the file can't be opened.
    """
    return _holding(path.open("a"))


@contextmanager
def _holding(file: IO[str]) -> Iterator[None]:
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def replace_whole(path: Path, text: str) -> None:
    """Make ``text`` the content of ``path``, as ``write_whole`` does."""
    write_whole(path, lambda file: file.write(text.encode()))


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Make what ``write`` puts into a file the content of ``path``, on the disk when this returns.

    Whoever reads meanwhile finds the old content or the new. Raises ``OSError`` and whatever
    ``write`` does; nothing is left beside it then.
    """
    handle, new = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with suppress(FileNotFoundError):  # it may have its new name already
            os.unlink(new)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """A rename is on the disk only once its folder is. Raises ``OSError``."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder that somebody else is writing to."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:  # moved or removed since it was listed
                continue
    return total
