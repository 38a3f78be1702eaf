"""Rings of real node processes, shared by the tests of this folder."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from hearthring.processes import NodeProcess, repository
from hearthring.shards.store import ModelEntry

Start = Callable[..., "list[RunningNode]"]


@dataclass
class RunningNode:
    """A node that serves, and how to reach it."""

    process: NodeProcess
    invitation: str
    window: str

    @property
    def node_id(self) -> str:
        return self.invitation.rpartition("/")[2]


@contextlib.contextmanager
def running(
    folder: Path, windows: Sequence[str], *flags: str, join: str = "", fault: str = ""
) -> Iterator[list[RunningNode]]:
    """Nodes of these windows; the others know the first only. Stopped at the end."""
    started: list[NodeProcess] = []

    def start(place: int, window: str, join: str) -> NodeProcess:
        given = ["--model", "smollm2", "--layers", window, "--listen", "127.0.0.1:0"]
        given += ["--threads", "1", "--data", str(folder / f"node{place}")]
        # torch as the reference it is; ggml as users get it
        given += ["--engine", "torch", *(() if "ggml" in flags else ("--residual", "fp32")), *flags]
        process = NodeProcess(window, [*given, *(["--join", join] if join else [])], fault)
        started.append(process)
        return process

    try:
        first = start(0, windows[0], join)
        nodes = [RunningNode(first, first.ready(), windows[0])]
        seed = join or nodes[0].invitation
        rest = [(start(i, w, seed), w) for i, w in enumerate(windows[1:], 1)]
        nodes += [RunningNode(process, process.ready(), w) for process, w in rest]
        yield nodes
    finally:
        for process in reversed(started):
            process.stop()


def hearthring(
    *arguments: str, seconds: float = 120, input: str = "", **environment: str
) -> "subprocess.CompletedProcess[str]":
    """A command as a user runs it, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "hearthring", *arguments],
        input=input,
        cwd=repository(),
        capture_output=True,
        text=True,
        timeout=seconds,
        env=os.environ | environment,
    )


@pytest.fixture(scope="session")
def ring(
    smollm2: ModelEntry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[RunningNode]]:
    """Four stages in fp32, for every test that doesn't break them."""
    with running(tmp_path_factory.mktemp("ring"), ("0:7", "7:15", "15:22", "22:30")) as nodes:
        yield nodes
