"""What homes leave behind whose process was killed: namespaces, processes in them, control groups.

Their names begin with ``tag`` of the process that made them, so that the next home can tell whose
owner is gone.
"""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NAMESPACES, GROUPS = Path("/run/netns"), Path("/sys/fs/cgroup")
_OURS = re.compile(r"hl(\d+)-\w+")


def tag(process: int) -> str:
    """What the names of a process's namespaces and control groups begin with."""
    return f"hl{process}-"


def remove_leftovers() -> list[str]:
    """Remove what processes left that are gone; the names of it. What can't be, stays."""
    removed = []
    for path in _made_by_the_dead(NAMESPACES):
        _kill_within(path.name)
        done = subprocess.run(["ip", "netns", "del", path.name], capture_output=True)
        removed += [path.name] if not done.returncode else []
    # Version 1 has a folder for each controller, version 2 has none.
    for folder in (GROUPS, *(each for each in GROUPS.glob("*") if each.is_dir())):
        for path in _made_by_the_dead(folder):
            removed += [path.name] if remove_group(path) else []
    return removed


def remove_group(folder: Path) -> bool:
    """Remove a control group; its processes must be gone, which may take the kernel a moment."""
    for _ in range(50):
        with contextlib.suppress(OSError):
            folder.rmdir()
            return True
        time.sleep(0.02)
    return False


def _made_by_the_dead(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob("hl*-*")):
        named = _OURS.fullmatch(path.name)
        if named and not _lives(named[1]):
            yield path


def _lives(process: str) -> bool:
    """Whether there is such a process; one that has ended and waits to be noticed isn't."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _kill_within(namespace: str) -> None:
    words = ["ip", "netns", "pids", namespace]
    for process in subprocess.run(words, capture_output=True, text=True).stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)
