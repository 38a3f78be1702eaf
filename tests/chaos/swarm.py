"""Four stages and two spares in real processes, to be killed, stopped, drained and restarted."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hearthring.processes import NodeProcess
from hearthring.protocol.asking import ask_status
from hearthring.protocol.errors import DeadlineExceeded, HearthringError, Unavailable
from hearthring.protocol.invitation import Invitation
from hearthring.protocol.tasks import cancel
from hearthring.protocol.transport import Transport

STAGES, SPARES = 4, 2
CLIENT = "me"
STATUS_SECONDS = 1.0
READY_SECONDS = 180.0
"""Patience with a node that starts on a machine that is busy with the others."""
RESTART_SECONDS = 0.5
"""After a node's end, until it is started again."""
PORTS = range(20_000, 32_000)

Prefix = Callable[[int], Sequence[str]]
Address = Callable[[int], str]


def machine(place: int) -> str:
    """The name of a member's machine, where each has one of its own."""
    return f"n{place}"


def free_port() -> int:
    """A port nobody listens on now; a restarted node comes back to it.

    Not one that outgoing connections are given: one of those could have it while the node is down.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", secrets.choice(PORTS)))
            return int(probe.getsockname()[1])


@dataclass
class Member:
    """One node of the swarm, in whatever process it has now."""

    place: int
    flags: list[str]
    prefix: Sequence[str]
    process: NodeProcess
    spare: bool = False
    invitation: str = ""
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while it has announced itself and wasn't seen to end."""

    @property
    def node_id(self) -> str:
        return self.invitation.rpartition("/")[2]

    def signal(self, number: int) -> None:
        """To the node and its directory's process: as a machine that fails, as a whole."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.process.pid, number)

    def start(self) -> None:
        self.process = NodeProcess(f"node {self.place}", self.flags, before=self.prefix)

    def alive(self) -> bool:
        return self.process.process.poll() is None


@dataclass
class ChaosSwarm:
    """The members, and who of them is at work."""

    model: str
    members: list[Member] = field(default_factory=list)

    @property
    def invitations(self) -> list[str]:
        return [member.invitation for member in self.members]

    def weight(self, node_id: str) -> float:
        """Spares are chosen for a route only where something is missing."""
        return 0.05 if any(m.spare and m.node_id == node_id for m in self.members) else 1.0

    async def at_work(self, transport: Transport) -> list[Member]:
        """The members that hold a session now, by their own word."""

        async def holds(member: Member) -> bool:
            try:
                async with asyncio.timeout(STATUS_SECONDS):
                    status = await ask_status(transport, Invitation.parse(member.invitation))
            except (HearthringError, TimeoutError):
                return False
            return status.sessions > 0

        held = await asyncio.gather(*(holds(member) for member in self.members))
        return [member for member, yes in zip(self.members, held, strict=True) if yes]

    async def supervise(self) -> None:
        """Start whoever has ended again, a moment later, as a service manager would."""
        await asyncio.gather(*(self._keep(member) for member in self.members))

    async def _keep(self, member: Member) -> None:
        while True:
            while member.alive():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            member.up.clear()
            await asyncio.sleep(RESTART_SECONDS)
            # What is left of its session, its directory's process say, ends with it.
            member.signal(signal.SIGKILL)
            await asyncio.to_thread(member.process.stop)
            member.start()
            with contextlib.suppress(Unavailable):  # it has ended again, and is started again
                await asyncio.to_thread(member.process.ready, READY_SECONDS)
                member.up.set()

    async def whole(self) -> None:
        """Wait until everybody is up, for as long as it may take to start.

        Raises ``DeadlineExceeded`` that says of whoever isn't what its last words were.
        """
        try:
            async with asyncio.timeout(READY_SECONDS):
                while self._down():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            words = [f"{m.process.name}: {' '.join(m.process.seen[-3:])}" for m in self._down()]
            raise DeadlineExceeded("; ".join(words), field="swarm") from None

    def _down(self) -> list[Member]:
        return [m for m in self.members if not (m.alive() and m.up.is_set())]


@asynccontextmanager
async def chaos_swarm(
    folder: Path,
    model: str,
    layers: int,
    *flags: str,
    stages: int = STAGES,
    spares: int = SPARES,
    prefix: Prefix = lambda place: (),
    address: Address = lambda place: "127.0.0.1",
) -> AsyncIterator[ChaosSwarm]:
    """Stages with equal shares of the layers, and spares with all of them. Stopped at the end."""
    windows = [f"{layers * i // stages}:{layers * (i + 1) // stages}" for i in range(stages)]
    windows += [f"0:{layers}"] * spares
    swarm = ChaosSwarm(model)
    try:
        for place, window in enumerate(windows):
            given = ["--model", model, "--layers", window, "--threads", "1", *flags]
            given += ["--listen", f"{address(place)}:{free_port()}"]
            given += ["--data", str(folder / f"node{place}")]
            for member in swarm.members[:2]:
                given += ["--join", member.invitation]
            process = NodeProcess(f"node {place}", given, before=prefix(place))
            member = Member(place, given, prefix(place), process, place >= stages)
            swarm.members.append(member)
            if place < 2:  # the others start together, and know these two
                member.invitation = await asyncio.to_thread(process.ready, READY_SECONDS)
        for member in swarm.members[2:]:
            member.invitation = await asyncio.to_thread(member.process.ready, READY_SECONDS)
        # When the first two come back there must be somebody they can join.
        for member in swarm.members[:2]:
            for other in swarm.members[2:4]:
                member.flags += ["--join", other.invitation]
        for member in swarm.members:
            member.up.set()
        supervisor = asyncio.create_task(swarm.supervise())
        try:
            yield swarm
        finally:
            await cancel([supervisor])
    finally:
        for member in swarm.members:
            member.signal(signal.SIGCONT)
            member.signal(signal.SIGTERM)
        for member in swarm.members:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(member.process.process.wait, 5)
            await asyncio.to_thread(member.process.stop, signal.SIGKILL)
