"""The node's handle on its directory's process."""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
from typing import Any

from hearthring.protocol.errors import ProtocolError, from_wire
from hearthring.protocol.frames import Frame, encode_frame, read_frame
from hearthring.protocol.scratch import sweep

GOODBYE = 0.8
"""Time the child has to go by itself; then it is killed."""


class Gone(Exception):
    """The child has ended."""


class Child:
    """One run of the directory process. Dead is dead: every later ``ask`` raises ``Gone``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._reading = asyncio.create_task(self._read())

    @staticmethod
    async def spawn() -> "Child":
        # A session of its own: Ctrl+C in the terminal is the node's to handle, and killing the
        # group takes p2pd along. It imports from where this process does, not from any directory
        # the user happens to be in.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "hearthring.protocol.directory_process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        return Child(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def gone(self) -> None:
        """Wait until it has ended. Cancelling changes nothing."""
        await asyncio.wait({self._reading})

    async def ask(self, op: str, **fields: Any) -> Frame:
        """Send a request and wait, as long as it takes. Raises ``Gone`` or the child's error."""
        if self._reading.done():
            raise Gone
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
                    waiting.set_exception(Gone())
