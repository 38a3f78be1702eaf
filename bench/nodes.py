"""What the ring's benchmarks share: rings of real processes, and the same engine without one."""

import asyncio
import contextlib
import json
import os
import platform
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Queue

import numpy as np

from hearthring.processes import NodeProcess
from hearthring.protocol.tensors import Residual
from hearthring.shards.ends import open_ends
from hearthring.shards.engine import EngineRow, Kind, Segment
from hearthring.shards.engines import load_engine
from hearthring.shards.store import ModelStore

LAYERS = 30
MACHINE = f"{platform.machine()}, {os.cpu_count()} cores"
STORY = "The history of the lighthouse begins with open fires built on hilltops. "


@contextmanager
def ring(
    stages: int,
    engine: str,
    delay_ms: float = 0.0,
    program: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> Iterator[str]:
    """Nodes with one thread each, of about as many layers; yields an invitation.

    With a delay, every byte to and from a node takes so much longer. ``program``: what Python runs
    in place of ``hearthring node``; ``flags``: what every node is given besides.
    """
    cuts = [LAYERS * i // stages for i in range(stages + 1)]
    invite = ""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for place in range(stages):
            window, port = f"{cuts[place]}:{cuts[place + 1]}", free_port()
            own = ["--layers", window, "--listen", f"127.0.0.1:{port}", "--threads", "1"]
            own += ["--engine", engine, "--data", f"{folder}/{place}", *flags]
            if delay_ms:
                outside = stack.enter_context(slow_link(port, delay_ms / 1e3))
                own += ["--announce", f"127.0.0.1:{outside}"]
            if invite:
                own += ["--join", invite]
            node = NodeProcess(window, own, program=program)
            stack.callback(node.stop)
            ready = node.ready()
            invite = invite or ready
        yield invite


def free_port() -> int:
    """A port of the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def slow_link(port: int, delay: float) -> Iterator[int]:
    """A port that leads to another one, ``delay`` seconds later in either direction."""
    loop, ready = asyncio.new_event_loop(), Queue[int]()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            loop.call_later(delay, writer.write, data)
        loop.call_later(delay, writer.close)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside, outside = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(OSError):
            await asyncio.gather(carry(reader, outside), carry(inside, writer))

    async def listen() -> asyncio.Server:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        ready.put(server.sockets[0].getsockname()[1])
        return server

    def run() -> None:
        server = loop.run_until_complete(listen())
        loop.run_forever()
        server.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield ready.get()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


class Single:
    """The whole model in this process: greedy decoding without a ring."""

    def __init__(self, engine: str) -> None:
        gguf = ModelStore().find("smollm2").open()
        residual = Residual.FP32 if engine == "torch" else Residual.BF16
        self.engine = load_engine(engine, gguf, (0, LAYERS), residual, 1)
        self.ends = open_ends("auto", gguf, residual, 1)

    def decode(self, prompt: list[int], tokens: int) -> tuple[float, float, float]:
        """Prefill seconds, seconds per decoded token, and of those the engine's."""
        rows = len(prompt) + tokens
        cache, slots, inside = self.engine.new_cache(rows), np.arange(rows, dtype=np.int64), 0.0
        begun = time.perf_counter()
        prefill = tuple(EngineRow(Kind.PROMPT, p, p, slots[: p + 1]) for p in range(len(prompt)))
        states, _ = self.engine.forward((Segment(cache, prefill),), self.ends.embed(prompt))
        token = int(self.ends.logits(self.ends.norm(states[-1:])[0]).argmax())
        first = time.perf_counter()
        for p in range(len(prompt), rows - 1):
            row = EngineRow(Kind.GENERATED, p, p, slots[: p + 1])
            states = self.ends.embed([token])
            before = time.perf_counter()
            states, _ = self.engine.forward((Segment(cache, (row,)),), states)
            inside += time.perf_counter() - before
            token = int(self.ends.logits(self.ends.norm(states)[0]).argmax())
        spent = time.perf_counter() - first
        return first - begun, spent / (tokens - 1), inside / (tokens - 1)


def report(figures: dict[str, object], path: Path | None) -> None:
    """Print figures, and keep them as JSON if asked."""
    for name, value in figures.items():
        print(f"{name:<36}{value}")
    if path:
        path.write_text(json.dumps(figures, indent=1) + "\n")
