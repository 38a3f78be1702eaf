"""Processes that were started end with whoever started them, however it is ended."""

import signal
import subprocess
import sys
import time

import pytest

PATIENCE = 20.0
STARTER = """
import subprocess, sys, time
from hearthring.guard import GUARD
def start(what):
    options = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen([sys.executable, "-c", what], **options)
    process.stdout.readline()
    GUARD.watch(process.pid)
    return process
wait = "import time; print(flush=True); time.sleep(600)"
heedless = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + wait
kept, stubborn, forgotten = start(wait), start(heedless), start(wait)
GUARD.forget(forgotten.pid)
print(kept.pid, stubborn.pid, forgotten.pid, flush=True)
time.sleep(600)
"""

REPLACED = """
import subprocess, sys
from hearthring.guard import GUARD
def start():
    wait = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
    process = subprocess.Popen(wait, start_new_session=True)
    GUARD.watch(process.pid)
    return process
one = start()
GUARD._process.kill()
GUARD._process.wait()
other = start()
for each in one, other:
    each.kill()
    each.wait()
    GUARD.forget(each.pid)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped doesn't."""
    words = ["ps", "-o", "stat=", "-p", str(pid)]
    state = subprocess.run(words, capture_output=True, text=True).stdout
    return bool(state) and not state.startswith("Z")


def wait_for(end: int) -> None:
    until = time.monotonic() + PATIENCE
    while alive(end):
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_is_ended_takes_along_what_it_started(number: int) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    kept, stubborn, forgotten = (int(pid) for pid in starter.stdout.readline().split())
    try:
        assert alive(kept)
        assert alive(stubborn)
        starter.send_signal(number)
        starter.wait(PATIENCE)
        wait_for(kept)
        wait_for(stubborn)
        assert alive(forgotten)
    finally:
        subprocess.run(["kill", "-9", str(forgotten)], check=True)
        starter.stdout.close()


def test_a_guard_leaves_nothing_open_when_it_is_replaced_and_when_it_has_nothing_to_do() -> None:
    said = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", REPLACED],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (said.returncode, said.stderr) == (0, "")
