"""A real emulated home: delay, partitions, pauses, limits, and nothing left of it."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.homelab import Home, Machine, why_not

pytestmark = [
    pytest.mark.swarm,
    pytest.mark.skipif(bool(why_not()), reason=f"no emulated home: {why_not()}"),
]
ECHO = """
import socket
heard = 0
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind(("0.0.0.0", 9))
    print("ready", flush=True)
    while True:
        _, who = s.recvfrom(100)
        heard += 1
        s.sendto(str(heard).encode(), who)
"""
ASK = """
import json, socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(0.5)
    begun = time.monotonic()
    s.sendto(b"?", (sys.argv[1], 9))
    try:
        heard = int(s.recv(100))
    except TimeoutError:
        heard = None
    print(json.dumps([heard, time.monotonic() - begun]))
"""


@contextlib.contextmanager
def home_with_echo() -> Iterator[Home]:
    machines = [Machine("attic"), Machine("cellar", delay=20, memory=150), Machine("hall")]
    with Home(machines, seed=1) as home:
        server = home.popen("cellar", [sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        try:
            yield home
        finally:
            server.kill()
            server.wait()
            server.stdout.close()


def ask(home: Home, name: str) -> tuple[int | None, float]:
    words = [sys.executable, "-c", ASK, home.address("cellar")]
    heard, seconds = json.loads(home.run(name, words, capture_output=True, check=True).stdout)
    return heard, seconds


def state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_home_does_as_it_is_told() -> None:
    with home_with_echo() as home:
        ask(home, "attic")
        heard, seconds = ask(home, "attic")
        assert heard == 2
        assert seconds >= 0.04  # both ways: nothing can be faster than the emulated link
        home.change("cellar", delay=60)
        assert ask(home, "attic")[1] >= 0.12
        home.change("cellar", delay=0)
        home.cut("cellar", "attic", one_way=True)
        assert ask(home, "attic")[0] is None  # heard, but the answer got lost
        assert ask(home, "hall")[0] == 5
        home.mend()
        home.cut("attic", "cellar")
        assert ask(home, "attic")[0] is None
        home.mend()
        assert ask(home, "attic")[0] == 6
        (echo,) = home.processes("cellar")
        home.pause("cellar")
        until = time.monotonic() + 5
        while state(echo) != "T" and time.monotonic() < until:  # a signal takes a moment
            time.sleep(0.01)
        assert state(echo) == "T"
        assert ask(home, "attic")[0] is None
        home.resume("cellar")
        assert ask(home, "attic")[0] is not None
        with home.inside("hall"):
            here = subprocess.run(["ip", "-4", "addr"], capture_output=True, text=True, check=True)
        assert home.address("hall") in here.stdout
        if not home.missing:
            hungry = [sys.executable, "-c", "len(bytearray(400 << 20))"]
            assert home.run("cellar", hungry, capture_output=True).returncode != 0
            assert home.run("attic", hungry).returncode == 0


def test_nothing_is_left_of_a_home() -> None:
    with Home([Machine("attic", cpus=0.5), Machine("cellar")]) as home:
        sleeper = home.popen("attic", ["sleep", "600"])
        while not home.processes("attic"):
            time.sleep(0.01)
        tag = home._tag
    assert sleeper.wait(10) == -9
    assert tag not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    assert not [str(p) for p in Path("/sys/fs/cgroup").glob(f"*/{tag}*")]


KILLED = """
import subprocess, sys
from bench.homelab import Home, Machine
home = Home([Machine("attic", memory=100)])
home.__enter__()
home.popen("attic", ["sleep", "600"], stdout=subprocess.DEVNULL)
while not home.processes("attic"):
    pass
print(*home.processes("attic"), flush=True)
sys.stdin.read()
"""


def spaces() -> str:
    return subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


def test_what_a_killed_process_left_is_gone_when_the_next_home_is_built() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    owner = subprocess.Popen([sys.executable, "-c", KILLED], **pipes)  # type: ignore[call-overload]
    try:
        sleeper = int(owner.stdout.readline())
        with Home([Machine("hall")]):  # it lives still
            assert f"hl{owner.pid}-attic" in spaces()
            assert Path(f"/proc/{sleeper}").exists()
    finally:
        owner.kill()
        owner.communicate()
    assert f"hl{owner.pid}-attic" in spaces()
    with Home([Machine("hall")]):
        assert f"hl{owner.pid}-" not in spaces()
    until = time.monotonic() + 5
    while Path(f"/proc/{sleeper}").exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not Path(f"/proc/{sleeper}").exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/hl{owner.pid}-*"))


def test_the_command_runs_something_in_a_home(tmp_path: Path) -> None:
    path = tmp_path / "home.toml"
    path.write_text('[[machine]]\nname = "attic"\n[[machine]]\nname = "cellar"\n')
    words = [sys.executable, "-m", "bench.homelab", str(path), "--in", "cellar", "--"]
    script = 'echo $HOME_ATTIC; eval "$HOME_IN_ATTIC ip -4 addr"; exit 3'
    done = subprocess.run([*words, "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout.count("10.77.0.1") == 2
    done = subprocess.run([*words[:-2], "nowhere", "--", "true"], capture_output=True, text=True)
    assert done.returncode == 64
    assert "nowhere" in done.stderr
