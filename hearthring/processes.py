"""Node processes of our own on this machine: started, watched, and stopped without a trace."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, Queue

import hearthring
from hearthring.guard import GUARD
from hearthring.node.directory import START
from hearthring.protocol.errors import Unavailable

READY_SECONDS = START + 30.0
"""As long as its directory may take, and what comes before and after that."""
STOP_SECONDS = 10.0


class NodeProcess:
    """``hearthring node`` with these flags; with a fault, the lying node of the tests.

    It has a session of its own, so a Ctrl-C in the terminal reaches us alone and we stop our nodes
    in order; should we be killed first, a guard ends them for us. ``before`` are words in front of
    the command, which must end in running it; ``program`` is what Python runs in its place.
    """

    def __init__(
        self,
        name: str,
        flags: list[str],
        fault: str = "",
        before: Sequence[str] = (),
        program: Sequence[str] = (),
    ) -> None:
        if not program:
            program = [
                "-m",
                *(["tests.liar", "--fault", fault] if fault else ["hearthring", "node"]),
            ]
        self.name, self.seen = name, list[str]()
        self.process = subprocess.Popen(  # noqa: S603
            [*before, sys.executable, *program, *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=repository() if fault else None,
            start_new_session=True,
        )
        GUARD.watch(self.process.pid)
        self._lines: Queue[str | None] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ready(self, seconds: float = READY_SECONDS) -> str:
        """Wait for the invitation. Raises ``Unavailable`` with the node's last words."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except Empty:
                raise Unavailable(f"{self.name} didn't start in time", field="node") from None
            if line is None:
                said = " ".join(self.seen[-2:]).strip()
                raise Unavailable(f"{self.name} ended: {said}", field="node")
            self.seen.append(line)
            if line.startswith("invitation "):
                return line.split()[1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; after ten seconds SIGKILL to its whole session. Idempotent."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        GUARD.forget(self.process.pid)
        self._reader.join(STOP_SECONDS)
        return self.process.returncode

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self._lines.put(line)
        self._lines.put(None)


def repository() -> Path | None:
    """The checkout this package runs from, if it is one: it holds the lying node."""
    root = Path(hearthring.__file__).resolve().parents[1]
    return root if (root / "tests" / "liar.py").is_file() else None
