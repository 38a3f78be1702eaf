"""The directory as a node sees it: announce a record, fetch those of a model.

``DhtDirectory`` owns the child process of ``hearthring.protocol.directory``, watches it and starts
it again; ``MemoryDirectory`` is its twin for tests, within one process.
"""

import asyncio
import base64
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Protocol

from hearthring.protocol import records
from hearthring.protocol.directory import (
    DirectoryConfig,
    Frame,
    encode_frame,
    pack,
    read_frame,
    sweep,
)
from hearthring.protocol.errors import DirectoryDown, HearthringError, ProtocolError, from_wire
from hearthring.protocol.limits import LIMITS

START = 30.0
REQUEST = 10.0
WITHDRAW = 1.5
GOODBYE = 0.8
"""Time the child has to go by itself; then it is killed."""
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


class _Child:
    """One run of the directory process. Dead is dead: every later ``ask`` raises ``_Gone``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._reading = asyncio.create_task(self._read())

    @staticmethod
    async def spawn() -> "_Child":
        # A session of its own: Ctrl+C in the terminal is the node's to handle, and killing the
        # group takes p2pd along. It imports from where this process does, not from any directory
        # the user happens to be in.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "hearthring.protocol.directory",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        return _Child(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def gone(self) -> None:
        """Wait until it has ended. Cancelling changes nothing."""
        await asyncio.wait({self._reading})

    async def ask(self, op: str, **fields: Any) -> Frame:
        """Send a request and wait, as long as it takes. Raises ``_Gone`` or the child's error."""
        if self._reading.done():
            raise _Gone
        number = next(self._ids)
        reply: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            self._stdin.write(encode_frame({"id": number, "op": op} | fields))
            return await reply
        finally:
            del self._waiting[number]

    async def close(self) -> None:
        """Ask it to stop and kill it when it doesn't; also when cancelled, nothing runs on."""
        try:
            if not self._reading.done():
                self._stdin.write(encode_frame({"op": "stop"}))
            self._stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE):
                    await self._process.wait()
        finally:
            killed = self._kill()
            await self._process.wait()
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            if killed:
                await asyncio.to_thread(sweep)

    def _kill(self) -> bool:
        """Kill the process and p2pd, whose group outlives it. False if all were gone already."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    async def _read(self) -> None:
        try:
            while frame := await read_frame(self._stdout):
                waiting = self._waiting.get(frame.get("id", -1))
                if waiting is None or waiting.done():
                    continue
                if "error" in frame:
                    waiting.set_exception(from_wire(*frame["error"]))
                else:
                    waiting.set_result(frame["result"])
        except ProtocolError:
            # Out of step; the supervisor sees the task end and starts another.
            self._kill()
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(_Gone())


class _Gone(Exception):
    """The child has ended."""


class DhtDirectory:
    """The swarm's DHT, through a child process that is replaced whenever it fails.

    The replacement has the same identity, port and known peers, and publishes the last records
    again. Meanwhile requests wait within their deadlines, then raise ``DirectoryDown``.
    """

    def __init__(self, config: DirectoryConfig) -> None:
        """Use ``start``."""
        self._config = config
        self._child: _Child | None = None
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

        Raises ``DirectoryDown`` after 30 s, or earlier when nobody answers or the clock is wrong,
        ``PortInUse`` or ``BadIdentityFile``; then, and when cancelled, no process is left.
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
        return [base64.b64decode(text) for text in reply["records"]]

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
                    except _Gone:
                        self._up.clear()
        except TimeoutError:
            raise DirectoryDown(f"no answer in {deadline:g} s", field="directory") from None

    async def _spawn(self, config: DirectoryConfig) -> _Child:
        child = await _Child.spawn()
        try:
            async with asyncio.timeout(START):
                self._learn(await child.ask("start", config=asdict(config)))
        except BaseException as error:
            await child.close()
            if isinstance(error, TimeoutError):
                raise DirectoryDown(f"not ready in {START:g} s", field="directory") from None
            if isinstance(error, _Gone):
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
                with contextlib.suppress(DirectoryDown):
                    await self._ask(REQUEST, "store", records=[pack(signed)], within=REQUEST / 2)

    async def _watch(self, child: _Child) -> None:
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
            except _Gone:
                return


class MemoryDirectory:
    """The twin for tests: nodes of one process share a dictionary ``(model id, node) -> record``.

    It keeps the DHT's rules: later expiry wins, and nothing that is expired is seen.
    """

    def __init__(
        self,
        shared: dict[tuple[str, str], bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` is wall-clock seconds."""
        self._shared, self._clock, self._closed = shared, clock, False

    @property
    def addresses(self) -> tuple[str, ...]:
        """Nothing to dial."""
        return ()

    async def announce(self, signed: bytes) -> None:
        """See ``Directory``."""
        self._check()
        record = records.read(signed)
        key = record.model_id, record.node
        life = record.expires - self._clock()
        if 0 < life <= LIMITS.record_life_cap and (
            key not in self._shared or records.read(self._shared[key]).expires < record.expires
        ):
            self._shared[key] = signed

    async def withdraw(self, signed: bytes) -> None:
        """See ``Directory``."""
        await self.announce(signed)

    async def fetch(self, model_id: str, layers: int) -> list[bytes]:
        """See ``Directory``."""
        self._check()
        found = []
        for (model, _), signed in list(self._shared.items()):
            record = records.read(signed)
            live = record.expires > self._clock()
            if model == model_id and live and min(record.layers) < layers:
                found.append(signed)
        return found

    async def close(self) -> None:
        """See ``Directory``. Its records stay until they expire."""
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise DirectoryDown("closed", field="directory")
