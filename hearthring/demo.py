"""``hearthring demo``: the whole of hearthring on this machine, in about a minute.

Four node processes on loopback; three know nothing but the first one's invitation. A real answer
is streamed round the ring, its proof audited; then one node is replaced by one that lies, and the
audit names it. Whatever happens, no process, socket or temporary file is left.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue

import hearthring
from hearthring.asking import print_verdict, summary
from hearthring.client.answer import Answer
from hearthring.client.sync import Client
from hearthring.protocol.errors import Unavailable
from hearthring.shards.store import ModelStore
from hearthring.terminal import Bars
from hearthring.verify.verdict import Outcome, Verdict

PROMPT = "Why is the sky blue? Answer in three sentences."
NODES = 4
LIAR = 2
FAULT = "noise:0.02"
START = 90.0
STOP = 10.0


@dataclass(slots=True)
class Process:
    """A node process of ours; its lines are read as they come."""

    name: str
    window: str
    process: "subprocess.Popen[str]"
    lines: "Queue[str]" = field(default_factory=Queue)
    seen: list[str] = field(default_factory=list)

    @staticmethod
    def start(name: str, window: str, data: Path, join: str, fault: str = "") -> "Process":
        """Start a node of this window; with a fault, one that lies."""
        liar = ["-m", "tests.liar", "--fault", fault] if fault else ["-m", "hearthring", "node"]
        command = [sys.executable, *liar, "--model", "smollm2", "--layers", window]
        command += ["--listen", "127.0.0.1:0", "--data", str(data), "--threads", "1"]
        process = subprocess.Popen(  # noqa: S603
            [*command, *(["--join", join] if join else [])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=repository() if fault else None,
            start_new_session=True,  # Ctrl-C is for us; we stop our nodes in order
        )
        node = Process(name, window, process)
        threading.Thread(target=node._read, daemon=True).start()
        return node

    def ready(self, deadline: float) -> str:
        """Wait for the invitation. Raises ``Unavailable`` with the node's last words."""
        while True:
            try:
                line = self.lines.get(timeout=max(0.1, deadline - time.monotonic()))
            except Empty:
                raise Unavailable(f"{self.name} didn't start in time", field="demo") from None
            if line == "":
                said = " ".join(self.seen[-2:]).strip()
                raise Unavailable(f"{self.name} ended: {said}", field="demo")
            self.seen.append(line)
            if line.startswith("invitation "):
                return line.split()[1]

    def stop(self) -> None:
        """SIGTERM; after ten seconds SIGKILL to its whole session."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.put(line)
        self.lines.put("")


def run_demo(max_tokens: int, keep: Path | None) -> int:
    """The demo. Returns 0 if the honest answer was accepted and the liar named."""
    begun = time.monotonic()
    with Bars() as bars:
        layers = ModelStore().find("smollm2", bars).manifest.shape.layers
    windows = [f"{layers * i // NODES}:{layers * (i + 1) // NODES}" for i in range(NODES)]
    with tempfile.TemporaryDirectory(prefix="hearthring-demo-") as scratch, _ring() as ring:
        folder = Path(scratch)
        print(f"starting {NODES} nodes on this machine; three of them know only the first\n")
        invite = _start(ring, 0, windows[0], folder, "")
        deadline = time.monotonic() + START
        for i in range(1, NODES):
            ring.append(Process.start(f"node {i + 1}", windows[i], folder / f"node{i}", invite))
        for node in ring[1:]:
            _tell(node, node.ready(deadline))
        with Client([invite], threads=1) as client:
            print(f"\n> {PROMPT}\n")
            answer = _ask(client, max_tokens)
            path = _save(answer, keep or folder, "honest.proof")
            verdict = _audit(client, path)
            passed = verdict.outcome is Outcome.ACCEPTED
            if repository() is None:
                print("\n(the lying node lives in the repository's tests; this part is skipped)")
            else:
                passed &= _with_a_liar(ring, windows, folder, invite, client, max_tokens, keep)
        print("\nstopping the nodes")
    print(f"done in {time.monotonic() - begun:.0f} s, nothing is left running")
    if not passed:
        print("hearthring: the demo did not go as it should", file=sys.stderr)
    return 0 if passed else 1


def _with_a_liar(
    ring: list[Process],
    windows: list[str],
    folder: Path,
    invite: str,
    client: Client,
    max_tokens: int,
    keep: Path | None,
) -> bool:
    """Replace one node by a liar with the same layers; the audit must name it."""
    print(f"\nnow node {LIAR + 1} is replaced by one that adds 2 % noise to what it computes\n")
    ring[LIAR].stop()
    data = folder / "liar"
    liar = Process.start(f"node {LIAR + 1}, lying", windows[LIAR], data, invite, FAULT)
    ring[LIAR] = liar
    invited = liar.ready(time.monotonic() + START)
    _tell(liar, invited)
    print(f"\n> {PROMPT}\n")
    path = _save(_ask(client, max_tokens), keep or folder, "lying.proof")
    verdict = _audit(client, path)
    named = [guilty.node for guilty in verdict.guilty]
    return verdict.outcome is Outcome.REJECTED and named == [invited.rpartition("/")[2]]


@contextlib.contextmanager
def _ring() -> Iterator[list[Process]]:
    """The nodes of the demo: stopped together at its end, the first last."""
    nodes: list[Process] = []

    def on_terminate(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield nodes
    finally:
        stopping = [threading.Thread(target=node.stop) for node in reversed(nodes)]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()
        signal.signal(signal.SIGTERM, before)


def _start(ring: list[Process], place: int, window: str, folder: Path, join: str) -> str:
    node = Process.start(f"node {place + 1}", window, folder / f"node{place}", join)
    ring.append(node)
    invite = node.ready(time.monotonic() + START)
    _tell(node, invite)
    return invite


def _tell(node: Process, invitation: str) -> None:
    ready = next((line.split("after ")[1] for line in node.seen if "after " in line), "")
    took = f", ready after {ready.split(' s')[0]} s" if ready else ""
    print(f"  {node.name}: layers {node.window}, {invitation.rpartition('/')[2]}{took}", flush=True)


def _ask(client: Client, max_tokens: int) -> Answer:
    messages = [{"role": "user", "content": PROMPT}]
    stream = client.stream(messages=messages, max_tokens=max_tokens)
    for piece in stream:
        print(piece.text, end="", flush=True)
    print(f"\n\n{summary(stream.answer)}")
    return stream.answer


def _save(answer: Answer, folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = answer.proof.save(folder / name)
    print(f"proof: {path.stat().st_size} bytes for {len(answer.token_ids)} tokens")
    return path


def _audit(client: Client, path: Path) -> Verdict:
    print("auditing it by replaying every layer ...", flush=True)
    verdict = client.audit(hearthring.Proof.load(path))
    print_verdict(verdict)
    return verdict


def repository() -> Path | None:
    """The checkout this package runs from, if it is one: it holds the lying node."""
    root = Path(hearthring.__file__).resolve().parents[1]
    return root if (root / "tests" / "liar.py").is_file() else None
