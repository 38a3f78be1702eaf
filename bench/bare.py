"""A ring without anything that makes it one: engines, and rows over sockets between them.

As many processes as a ring has, of one thread each, that read a row of a socket, run their layers
and write it to the next: no gRPC, no event loop, no sessions, slots, hashes, signatures or checks.
No ring of such processes is faster, so what it reaches bounds ours (``bench/ring.py --bare``).
"""

import multiprocessing
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from bench.nodes import LAYERS
from hearthring.protocol import tls
from hearthring.protocol.identity import Identity
from hearthring.protocol.tensors import Residual, pack, unpack
from hearthring.shards.ends import Ends
from hearthring.shards.engine import EngineRow, Kind, Segment
from hearthring.shards.engines import load_engine
from hearthring.shards.store import ModelStore

_RESIDUAL = Residual.BF16
_ROWS, _FRAME = 640, 1 << 22
_START = 60.0
"""Seconds that a process has to load its layers."""


class Wire:
    """A connected socket that carries frames, each behind its length in four bytes."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket, self._buffer = connected, memoryview(bytearray(_FRAME))

    def send(self, frame: bytes) -> None:
        """Write a frame."""
        self._socket.sendall(len(frame).to_bytes(4, "little") + frame)

    def receive(self) -> memoryview:
        """The next frame; it stands until the one after it. Raises ``EOFError``."""
        got, end = 0, 4
        while got < end:
            read = self._socket.recv_into(self._buffer[got:])
            if not read:
                raise EOFError
            got += read
            if got >= 4:
                end = 4 + int.from_bytes(self._buffer[:4], "little")
        return self._buffer[4:got]

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class BareRing:
    """The client of such a ring."""

    def __init__(self, first: Wire, last: Wire, ends: Ends) -> None:
        self._first, self._last, self._ends = first, last, ends

    def decode(self, prompt: Sequence[int], tokens: int) -> float:
        """Seconds per greedily decoded token behind a prompt of more than one."""
        ends, width = self._ends, self._ends.shape.width
        sent, begun = list(prompt), 0.0
        for made in range(tokens):
            self._first.send(pack(ends.embed(sent), _RESIDUAL))
            states = unpack(self._last.receive(), len(sent), width, _RESIDUAL)
            sent = [int(ends.logits(ends.norm(states[-1:])[0]).argmax())]
            if not made:
                begun = time.perf_counter()
        return (time.perf_counter() - begun) / (tokens - 1)


@contextmanager
def bare_ring(stages: int, ends: Ends, encrypted: bool) -> Iterator[BareRing]:
    """Processes of about as many layers each, and their client; ``encrypted``: by TLS."""
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        certificate = ""
        if encrypted:
            leaf = tls.make_leaf(Identity.new())
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "leaf.pem"
            path.write_bytes(leaf.key + leaf.certificate)
            certificate = str(path)
        pipes = list[Connection]()
        for place in range(stages):
            window = LAYERS * place // stages, LAYERS * (place + 1) // stages
            mine, its = spawn.Pipe()
            process = spawn.Process(target=_stage, args=(window, certificate, its), daemon=True)
            process.start()
            stack.callback(_end, process)
            pipes.append(mine)
        ports = [_said(pipe) for pipe in pipes]
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for pipe, port in zip(pipes, [*ports[1:], listener.getsockname()[1]], strict=True):
            pipe.send(port)
        # Each takes its caller once it is connected itself, so the client calls first.
        first = stack.enter_context(closing(_call(ports[0], certificate)))
        last = stack.enter_context(closing(_take(listener, certificate)))
        yield BareRing(first, last, ends)


def _stage(window: tuple[int, int], certificate: str, pipe: Connection) -> None:
    """The life of one process."""
    engine = load_engine("ggml", ModelStore().find("smollm2").open(), window, _RESIDUAL, 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe.send(listener.getsockname()[1])
        port = pipe.recv()
        before = _take(listener, certificate)
    following = _call(port, certificate)
    slots, cache, at = np.arange(_ROWS, dtype=np.int64), engine.new_cache(_ROWS), 0
    with closing(before), closing(following), suppress(EOFError, OSError):
        while True:
            frame = before.receive()
            count = len(frame) // (engine.width * _RESIDUAL.bytes)
            kind = Kind.GENERATED
            if count > 1:  # a prompt, and so another text
                kind, at = Kind.PROMPT, 0
            rows = tuple(EngineRow(kind, p, p, slots[: p + 1]) for p in range(at, at + count))
            states = unpack(frame, count, engine.width, _RESIDUAL)
            out, _ = engine.forward((Segment(cache, rows),), states)
            following.send(pack(out, _RESIDUAL))
            at += count


def _call(port: int, certificate: str) -> Wire:
    connected = socket.create_connection(("127.0.0.1", port))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if certificate:
        context = ssl.create_default_context(cafile=certificate)
        connected = context.wrap_socket(connected, server_hostname=tls.SERVER_NAME)
    return Wire(connected)


def _take(listener: socket.socket, certificate: str) -> Wire:
    connected, _ = listener.accept()
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        connected = context.wrap_socket(connected, server_side=True)
    return Wire(connected)


def _said(pipe: Connection) -> int:
    if not pipe.poll(_START):
        raise TimeoutError("a process of the bare ring doesn't start")
    return int(pipe.recv())


def _end(process: "multiprocessing.process.BaseProcess") -> None:
    process.terminate()
    process.join()
