"""Talking to a person: lines, progress bars, and errors as one line."""

import sys
import threading
import time
from types import TracebackType
from typing import Any, Self


def say(label: str, text: str) -> None:
    """One labelled line on standard output, at once."""
    print(f"  {label:<11}{text}", flush=True)


def remark(text: str) -> None:
    """A line on standard error, at once, beside an answer that is being streamed."""
    print(f"\n  [{text}]", file=sys.stderr, flush=True)


class Bars:
    """Progress bars on standard error for whatever takes over half a second.

    Call it as ``bars(label, done, total)`` from any thread. Nothing is drawn where standard error
    isn't a terminal; there a line per ten seconds says that work goes on.
    """

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._lock = threading.Lock()
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}
        self._begun: dict[str, float] = {}
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        """The bars themselves."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Take the bars away."""
        self.close()

    def __call__(self, label: str, done: int, total: int) -> None:
        """Show how far ``label`` has come."""
        with self._lock:
            now = time.monotonic()
            if now - self._begun.setdefault(label, now) < 0.5:
                return
            if self._tty:
                self._draw(label, done, total)
            elif now - self._said > 10:
                self._said = now
                print(f"{label}: {done * 100 // max(1, total)} %", file=sys.stderr, flush=True)

    def _draw(self, label: str, done: int, total: int) -> None:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._progress.start()
        if label not in self._tasks:
            self._tasks[label] = self._progress.add_task(label, total=total)
        self._progress.update(self._tasks[label], completed=done, total=total)

    def close(self) -> None:
        """Take the bars away, until there is more to show. Idempotent."""
        with self._lock:
            if self._progress is not None:
                self._progress.stop()
            self._progress, self._tasks = None, {}


def process_age() -> float:
    """Seconds since this process was started, imports included; 0 where that isn't known."""
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            ticks = int(stat.read().rpartition(")")[2].split()[19])
            import os

            return float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
