"""A home as a context manager: machines in network namespaces of their own, on one switch.

    with Home([Machine("attic", delay=5), Machine("cellar", up=40, down=100)]) as home:
        home.run("attic", ["ping", "-c1", home.address("cellar")])
        home.cut("attic", "cellar", one_way=True)

Needs Linux, root with CAP_NET_ADMIN, ``/dev/net/tun`` and iproute2: ``why_not`` says what is
missing. Nothing leaves the home: its namespaces have no other interface and no route out.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.homelab.leftovers import remove_leftovers, tag
from bench.homelab.limits import Limits
from bench.homelab.machine import Machine

_CLONE_NEWNET = 0x40000000
_ANSWER_SECONDS = 10.0
_ENTER = 'for group in $GROUPS_ENTRANCES; do echo $$ > "$group"; done; exec "$@"'


def why_not() -> str:
    """Why a home can't be built here, in a few words; empty if it can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/dev/net/tun").exists():
        return "this kernel has no /dev/net/tun"
    if shutil.which("ip") is None:
        return "needs the ip command of iproute2"
    probe = f"{tag(os.getpid())}_"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode:
        return f"can't make a network namespace: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return ""


class Home:
    """Up to 200 machines. Leaving the block ends what still runs in them, and leaves no trace.

    ``seed`` decides losses and jitter. ``missing`` names limits the kernel didn't give.
    """

    def __init__(self, machines: Iterable[Machine], seed: int = 0) -> None:
        self.machines = {machine.name: machine for machine in machines}
        if len(self.machines) > 200:
            raise ValueError("a home has 200 machines at most")
        self._seed, self._tag = seed, tag(os.getpid())
        self._deaf: dict[str, set[str]] = {name: set() for name in self.machines}
        self._limits: dict[str, Limits] = {}
        self._switch: subprocess.Popen[str] | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Build the home, once what killed processes left of theirs is gone. On failure nothing of
        it is left."""
        remove_leftovers()
        with contextlib.ExitStack() as stack:
            for name, machine in self.machines.items():
                subprocess.run(["ip", "netns", "add", self._space(name)], check=True)
                stack.callback(self._remove, name)
                self._limits[name] = Limits(machine, self._tag)
                stack.callback(self._limits[name].close)
                stack.callback(self._end, name)
            self._switch = subprocess.Popen(
                [sys.executable, "-m", "bench.homelab.switch"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
                cwd=Path(__file__).parents[2],
            )
            stack.callback(self._stop)
            ports = [
                {**asdict(m), "namespace": self._space(n), "address": self.address(n)}
                for n, m in self.machines.items()
            ]
            self._tell({"ports": ports, "seed": self._seed})
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """End and remove everything."""
        self._stack.close()

    @property
    def missing(self) -> list[str]:
        """Limits that were asked for and that this kernel doesn't give."""
        return sorted({f"{n}: {what}" for n, held in self._limits.items() for what in held.missing})

    @property
    def switch(self) -> int:
        """The process through which everything passes."""
        assert self._switch is not None
        return self._switch.pid

    def address(self, name: str) -> str:
        """A machine's address in the home."""
        return f"10.77.0.{list(self.machines).index(name) + 1}"

    # -- processes -------------------------------------------------------------------------------

    def prefix(self, name: str) -> list[str]:
        """Words in front of a command that make it run in a machine; the process id stays."""
        inside = ["ip", "netns", "exec", self._space(name)]
        entrances = " ".join(self._limits[name].entrances)
        return ["env", f"GROUPS_ENTRANCES={entrances}", "sh", "-c", _ENTER, "sh", *inside]

    def run(
        self, name: str, command: Sequence[str], **options: Any
    ) -> "subprocess.CompletedProcess[Any]":
        """``subprocess.run`` in a machine."""
        return subprocess.run([*self.prefix(name), *command], **options)

    def popen(self, name: str, command: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        """``subprocess.Popen`` in a machine."""
        return subprocess.Popen([*self.prefix(name), *command], **options)

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread, and those it starts from now on, in a machine. For short-lived processes:
        threads that others started stay where they are."""
        libc = ctypes.CDLL(None, use_errno=True)
        back = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self._space(name)}", os.O_RDONLY)
        try:
            if libc.setns(there, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            yield
        finally:
            libc.setns(back, _CLONE_NEWNET)
            os.close(there)
            os.close(back)

    def processes(self, name: str) -> list[int]:
        """Ids of what runs in a machine."""
        words = ["ip", "netns", "pids", self._space(name)]
        return [
            int(n) for n in subprocess.run(words, capture_output=True, text=True).stdout.split()
        ]

    def pause(self, name: str) -> None:
        """Stop all of a machine's processes, as a laptop does that falls asleep."""
        self._signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let them go on."""
        self._signal(name, signal.SIGCONT)

    # -- the network -----------------------------------------------------------------------------

    def change(self, name: str, **shape: float) -> None:
        """Another ``up``, ``down``, ``delay``, ``jitter`` or ``loss``, from now on."""
        if wrong := set(shape) - {"up", "down", "delay", "jitter", "loss"}:
            raise ValueError(f"a link has no {', '.join(sorted(wrong))}")
        self._tell({"machine": name, "change": shape})

    def cut(self, name: str, *others: str, one_way: bool = False) -> None:
        """Nothing of a machine's arrives at others (all, if none is named), nor theirs here unless
        ``one_way``. Nobody is told: connections just fall silent."""
        for other in others or set(self.machines) - {name}:
            self._deaf[other].add(name)
            if not one_way:
                self._deaf[name].add(other)
        self._send_deaf()

    def mend(self) -> None:
        """Everything arrives again."""
        for deaf in self._deaf.values():
            deaf.clear()
        self._send_deaf()

    def _send_deaf(self) -> None:
        for name, deaf in self._deaf.items():
            self._tell({"machine": name, "deaf_to": sorted(deaf)})

    def _tell(self, order: dict[str, Any]) -> dict[str, Any]:
        switch = self._switch
        assert switch is not None
        assert switch.stdin is not None
        assert switch.stdout is not None
        switch.stdin.write(json.dumps(order) + "\n")
        ready, _, _ = select.select([switch.stdout], [], [], _ANSWER_SECONDS)
        line = switch.stdout.readline() if ready else ""
        if not line:
            raise RuntimeError("the home's switch doesn't answer")
        answer: dict[str, Any] = json.loads(line)
        return answer

    # -- the end ---------------------------------------------------------------------------------

    def _space(self, name: str) -> str:
        return f"{self._tag}{name}"

    def _signal(self, name: str, number: int) -> None:
        for process in self.processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def _end(self, name: str) -> None:
        """Whoever is left of a machine's processes is killed, never this one."""
        for process in self.processes(name):
            if process != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def _remove(self, name: str) -> None:
        subprocess.run(["ip", "netns", "del", self._space(name)], check=True)

    def _stop(self) -> None:
        switch = self._switch
        if switch is None or switch.stdin is None or switch.stdout is None:
            return
        switch.stdin.close()
        try:
            switch.wait(_ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            switch.kill()
            switch.wait()
        switch.stdout.close()
