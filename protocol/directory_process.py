"""The directory's process: hivemind's DHT node, and nothing else, at a parent's service.

Run as ``python -m hearthring.protocol.directory_process`` by ``hearthring.node.directory_child``,
it speaks frames on stdin and stdout. Requests carry ``id`` and ``op`` (``start`` first, then
``store``, ``fetch``, ``ping``; ``stop`` ends the process), replies ``id`` and either ``result`` or
``error``. They are served concurrently.

Guarantees: the process ends, and takes p2pd and its sockets with it, when stdin closes, however
the parent died. If it is killed itself, the next start removes what is left of its files.
"""

import asyncio
import logging
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

from hearthring.protocol.errors import DirectoryDown, HearthringError, Malformed
from hearthring.protocol.frames import DirectoryConfig, Frame, encode_frame, read_frame, unpack
from hearthring.protocol.scratch import scratch, sweep
from hearthring.protocol.tasks import cancel

if TYPE_CHECKING:
    from hearthring.protocol.directory import Node

_PENDING = 64
"""Requests served at once."""
_DEADLINE = 30.0
Start = Callable[[DirectoryConfig, Path], Awaitable["Node"]]


class _Service:
    """The conversation with the parent."""

    def __init__(self, start: Start, folder: Path, writer: asyncio.StreamWriter) -> None:
        self._start, self._folder, self._writer = start, folder, writer
        self._node: Node | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Answer requests until ``stop`` or the end of stdin, then take everything down."""
        try:
            while (request := await read_frame(reader)) and request.get("op") != "stop":
                if len(self._tasks) < _PENDING:
                    task = asyncio.create_task(self._answer(request))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                else:
                    self._reply(request, error=DirectoryDown("too many requests at once"))
        finally:
            await cancel(self._tasks)
            if self._node is not None:
                await self._node.close()

    async def _answer(self, request: Frame) -> None:
        try:
            async with asyncio.timeout(_DEADLINE):
                self._reply(request, result=await self._do(request))
        except HearthringError as error:
            self._reply(request, error=error)
        except TimeoutError:
            late = DirectoryDown(f"took longer than {_DEADLINE:g} s", field="directory")
            self._reply(request, error=late)
        except Exception as error:
            # hivemind raises what it likes; the process goes on, the parent judges by ``ping``.
            logging.getLogger(__name__).debug("request failed", exc_info=True)
            self._reply(request, error=DirectoryDown(f"{type(error).__name__}: {error}"))
        if request.get("op") == "start" and self._node is not None:
            await self._node.rejoin()

    async def _do(self, request: Frame) -> Frame:
        match request:
            case {"op": "start", "config": dict(config)} if self._node is None:
                config["peers"] = tuple(config["peers"])
                self._node = await self._start(DirectoryConfig(**config), self._folder)
                return await self._node.ping()
            case _ if self._node is None:
                raise DirectoryDown("not started")
            case {"op": "store", "records": list(signed), "within": float(within)}:
                return await self._node.store([unpack(text) for text in signed], within)
            case {"op": "fetch", "model_id": str(model_id), "layers": int(layers)}:
                return await self._node.fetch(model_id, layers)
            case {"op": "ping"}:
                return await self._node.ping()
        raise Malformed("unknown request", field="directory frame")

    def _reply(
        self, request: Frame, result: Frame | None = None, error: HearthringError | None = None
    ) -> None:
        if error is None:
            reply = {"id": request.get("id"), "result": result}
        else:
            about = [type(error).__name__, error.message, error.field, error.mend]
            reply = {"id": request.get("id"), "error": about}
        self._writer.write(encode_frame(reply))


async def _main(start: Start, source: BinaryIO, sink: BinaryIO) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sink)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, reader.feed_eof)
    sweep()
    with scratch() as folder:
        await _Service(start, folder, writer).serve(reader)


def main() -> None:
    """Run the directory on this process's stdin and stdout."""
    debug = bool(os.environ.get("HEARTHRING_DEBUG"))
    # The frames get descriptors of their own: hivemind and p2pd print to stdout and inherit stdin.
    source, sink = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 0)
    if not debug:
        os.dup2(quiet, 2)
    os.dup2(2, 1)
    os.environ["HIVEMIND_LOGLEVEL"] = "DEBUG" if debug else "CRITICAL"
    try:
        _skip_training_half()
        import uvloop

        from hearthring.protocol.directory import Node

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_main(Node.start, source, sink))
    except Exception:
        traceback.print_exc()
    # Without the interpreter's farewell: hivemind's ``__del__`` methods need a running loop. The
    # group, if it is ours, takes along what a start that was cut short may have left.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _skip_training_half() -> None:
    """Let the DHT be imported without the rest of hivemind, and so without torch and numpy.

    ``hivemind/__init__`` imports averaging, experts and optimisers for convenience, and
    ``hivemind/dht/__init__`` the DHT in a process of its own, which we have already. Both packages
    are entered without being run. ``hivemind.utils`` needs torch for futures and descriptions of
    tensors that only those parts use: their modules are left empty but for the names. Together
    that saves more than two seconds of start-up and 150 MB.
    """
    for name in ("hivemind", "hivemind.dht"):
        spec = find_spec(name)
        if spec is not None:
            sys.modules[name] = module_from_spec(spec)
    for name, kind in (("mpfuture", "MPFuture"), ("tensor_descr", "TensorDescriptor")):
        unused = ModuleType(f"hivemind.utils.{name}")
        setattr(unused, kind, type(kind, (), {}))
        sys.modules[unused.__name__] = unused


if __name__ == "__main__":
    main()
