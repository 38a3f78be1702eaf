"""The directory as a node sees it: announce a record, fetch those of a model.

``DhtDirectory`` owns the process that takes part in the swarm's DHT, watches it and starts it
again; ``memory_directory`` has its twin for tests.
"""

import asyncio
import contextlib
import itertools
from dataclasses import asdict, replace
from typing import Any, Protocol

from hearthring.node.directory_child import Child, Gone
from hearthring.protocol import records
from hearthring.protocol.errors import DirectoryDown, HearthringError
from hearthring.protocol.frames import DirectoryConfig, Frame, pack, unpack

START = 120.0
"""Seconds until it must be ready: a small board, or a busy machine, is slow to import it."""
REQUEST = 10.0
WITHDRAW = 1.5
PING = 2.0
PING_DEADLINE = 4.0
KNOWN_PEERS = 32


class Directory(Protocol):
    """Where nodes announce what they serve. Every call may raise ``DirectoryDown``."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs through which others can join this directory."""
        ...

    async def announce(self, signed: bytes) -> None:
        """Publish a signed record until it expires; a later expiry replaces an earlier one.

        Raises the error of ``records.read`` for bytes that no reader would accept.
        """
        ...

    async def withdraw(self, signed: bytes) -> None:
        """Publish a record that is leaving, quickly; those not reached see the old one expire."""
        ...

    async def fetch(self, model_id: str, layers: int) -> list[bytes]:
        """Signed records of all nodes with any of the layers ``[0, layers)``, newest per node.

        Signatures hold; whether a record is leaving or of an unknown version is for the reader.
        """
        ...

    async def close(self) -> None:
        """End it. Afterwards nothing runs on; every other call raises ``DirectoryDown``."""
        ...


class DhtDirectory:
    """The swarm's DHT, through a child process that is replaced whenever it fails.

    The replacement has the same identity, port and known peers, and publishes the last records
    again. Meanwhile requests wait within their deadlines, then raise ``DirectoryDown``.
    """

    def __init__(self, config: DirectoryConfig) -> None:
        """Use ``start``."""
        self._config = config
        self._child: Child | None = None
        self._up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False
        self._addresses: tuple[str, ...] = ()
        self._last: dict[str, bytes] = {}
        self.restarts = 0
        """How often the child was replaced."""

    @staticmethod
    async def start(config: DirectoryConfig) -> "DhtDirectory":
        """Start the child and join the swarm.

        Raises ``DirectoryDown`` after ``START`` seconds, or earlier when nobody answers or the
        clock is wrong, ``PortInUse`` or ``BadIdentityFile``; then, and when cancelled, no process
        is left.
        """
        directory = DhtDirectory(config)
        directory._child = await directory._spawn(config)
        directory._up.set()
        directory._keeper = asyncio.create_task(directory._keep())
        return directory

    @property
    def addresses(self) -> tuple[str, ...]:
        """Multiaddrs of this node; those reachable from other machines come first."""
        return self._addresses

    @property
    def peers(self) -> tuple[str, ...]:
        """Multiaddrs a restart would join through, those met last at the end."""
        return self._config.peers

    @property
    def pid(self) -> int:
        """The process, 0 while it is being replaced."""
        return self._child.pid if self._child else 0

    async def announce(self, signed: bytes) -> None:
        """See ``Directory``. It is published again after a restart, until it expires."""
        self._last[records.read(signed).model_id] = signed
        await self._ask(REQUEST, "store", records=[pack(signed)], within=REQUEST / 2)

    async def withdraw(self, signed: bytes) -> None:
        """See ``Directory``. Takes at most 1.5 s."""
        self._last[records.read(signed).model_id] = signed
        await self._ask(WITHDRAW, "store", records=[pack(signed)], within=WITHDRAW / 3)

    async def fetch(self, model_id: str, layers: int) -> list[bytes]:
        """See ``Directory``."""
        reply = await self._ask(REQUEST, "fetch", model_id=model_id, layers=layers)
        return [unpack(text) for text in reply["records"]]

    async def close(self) -> None:
        """End the child, normally within a second; kill it otherwise, also when cancelled."""
        self._closed = True
        self._up.set()
        keeper, self._keeper = self._keeper, None
        try:
            if keeper is not None:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)
        finally:
            child, self._child = self._child, None
            if child is not None:
                await child.close()

    async def _ask(self, deadline: float, op: str, **fields: Any) -> Frame:
        """Ask the child, and its replacement if it ends meanwhile: requests are idempotent."""
        try:
            async with asyncio.timeout(deadline):
                while True:
                    await self._up.wait()
                    if self._closed:
                        raise DirectoryDown("closed", field="directory")
                    assert self._child is not None
                    try:
                        return await self._child.ask(op, **fields)
                    except Gone:
                        self._up.clear()
        except TimeoutError:
            raise DirectoryDown(f"no answer in {deadline:g} s", field="directory") from None

    async def _spawn(self, config: DirectoryConfig) -> Child:
        child = await Child.spawn()
        try:
            async with asyncio.timeout(START):
                self._learn(await child.ask("start", config=asdict(config)))
        except BaseException as error:
            await child.close()
            if isinstance(error, TimeoutError):
                raise DirectoryDown(
                    f"not ready in {START:g} s",
                    field="directory",
                    mend="is the machine very busy? HEARTHRING_DEBUG=1 shows what it does",
                ) from None
            if isinstance(error, Gone):
                raise DirectoryDown(
                    "its process ended while it started",
                    field="directory",
                    mend="HEARTHRING_DEBUG=1 shows why",
                ) from None
            raise
        return child

    def _learn(self, state: Frame) -> None:
        """Keep what a restart needs: the port others know, and whom this node knows."""
        self._addresses = tuple(state["addresses"])
        known = dict.fromkeys(self._config.peers)
        for peer in state["peers"]:
            known.pop(peer, None)
            known[peer] = None
        self._config = replace(
            self._config, port=state["port"], peers=tuple(known)[-KNOWN_PEERS:], must_join=False
        )

    async def _keep(self) -> None:
        """For ever: watch the child, replace it, publish the last records again."""
        while True:
            assert self._child is not None
            await self._watch(self._child)
            self._up.clear()
            old, self._child = self._child, None
            await old.close()
            for pause in itertools.chain((0.0, 0.5, 1.0, 2.0), itertools.repeat(5.0)):
                await asyncio.sleep(pause)
                with contextlib.suppress(HearthringError, OSError):
                    self._child = await self._spawn(self._config)
                    break
            self.restarts += 1
            self._up.set()
            for signed in list(self._last.values()):
                with contextlib.suppress(HearthringError):
                    await self._ask(REQUEST, "store", records=[pack(signed)], within=REQUEST / 2)

    async def _watch(self, child: Child) -> None:
        """Return when the child has ended or failed to answer twice."""
        failures = 0
        while failures < 2:
            try:
                async with asyncio.timeout(PING):
                    await child.gone()
                return
            except TimeoutError:
                pass
            try:
                async with asyncio.timeout(PING_DEADLINE):
                    self._learn(await child.ask("ping"))
                    failures = 0
            except (TimeoutError, HearthringError):
                failures += 1
            except Gone:
                return
