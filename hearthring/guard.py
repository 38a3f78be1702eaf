"""A process of its own that ends others once whoever started them is gone, however that died.

Whoever starts processes in sessions of their own tells ``watch`` of each. When this process ends,
by SIGKILL too, the pipe to the guard closes; the guard then asks every session that wasn't taken
back by ``forget`` to end, and kills those that haven't after ``GRACE`` seconds. Only the standard
library is imported here, so that a guard starts in a moment.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""


class Guard:
    """The guard of one process, there while sessions are watched. Safe from any thread."""

    def __init__(self) -> None:
        self._lock, self._sessions = threading.Lock(), set[int]()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def watch(self, session: int) -> None:
        """This session is to end when this process has ended."""
        with self._lock:
            self._sessions.add(session)
            self._tell(f"+{session}\n")

    def forget(self, session: int) -> None:
        """This session has ended; its number may soon be somebody else's."""
        with self._lock:
            if session in self._sessions:
                self._sessions.discard(session)
                self._tell(f"-{session}\n")
                if not self._sessions:
                    self._let_go()

    def _tell(self, line: str) -> None:
        if self._owner == os.getpid() and self._write(line):
            return
        if self._owner != os.getpid():  # a fork's guard is its own, and its parent's are not its
            self._sessions = {int(line[1:])} if line[0] == "+" else set()
        self._start()
        self._write("".join(f"+{session}\n" for session in self._sessions))

    def _start(self) -> None:
        self._let_go()
        self._owner = os.getpid()
        self._process = subprocess.Popen(  # noqa: S603 -- our own interpreter and this very file
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _write(self, text: str) -> bool:
        """Whether the guard is there to read it."""
        if self._process is None:
            return False
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()
        except OSError:
            return False
        return True

    def _let_go(self) -> None:
        """Close the pipe and reap the guard, which ends what it wasn't told to forget."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it died, and didn't read everything
            process.stdin.close()
        if self._owner != os.getpid():
            process.poll()  # the parent's to reap: here it only counts as ended
            return
        try:
            process.wait(2 * GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


GUARD = Guard()


def end(sessions: set[int], grace: float = GRACE) -> None:
    """End sessions: SIGTERM, and SIGKILL for what is left after ``grace`` seconds."""
    for session in sessions:
        _signal(session, signal.SIGTERM)
        _signal(session, signal.SIGCONT)  # one that is stopped takes no other signal
    until = time.monotonic() + grace
    while time.monotonic() < until and any(_signal(session, 0) for session in sessions):
        time.sleep(0.05)
    for session in sessions:
        _signal(session, signal.SIGKILL)


def _signal(session: int, number: int) -> bool:
    """Whether there was anybody to get it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, number)
        return True
    return False


def main() -> None:
    """Listen until whoever started this is gone, and end what it left."""
    sessions = set[int]()
    for line in sys.stdin:
        number = int(line[1:])
        if line[0] == "+":
            sessions.add(number)
        else:
            sessions.discard(number)
    end(sessions)


if __name__ == "__main__":
    main()
