"""``hearthring demo``: the whole of hearthring on this machine, in about a minute.

Four node processes on loopback; three know nothing but the first one's invitation. A real answer
is streamed round the ring, its proof audited; then one node is replaced by one that lies, and the
audit names it. Whatever happens, no process, socket or temporary file is left.
"""

import contextlib
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from hearthring.asking import print_verdict, summary
from hearthring.client.answer import Answer
from hearthring.client.sync import Client
from hearthring.processes import NodeProcess, repository
from hearthring.shards.store import ModelStore
from hearthring.terminal import Bars
from hearthring.verify.proof import Proof
from hearthring.verify.verdict import Outcome, Verdict

PROMPT = "Why is the sky blue? Answer in three sentences."
NODES = 4
LIAR = 2
FAULT = "noise:0.02"


def run_demo(max_tokens: int, keep: Path | None) -> int:
    """The demo. Returns 0 if the honest answer was accepted and the liar named."""
    begun = time.monotonic()
    with Bars() as bars:
        layers = ModelStore().find("smollm2", bars).manifest.shape.layers
    windows = [f"{layers * i // NODES}:{layers * (i + 1) // NODES}" for i in range(NODES)]
    with tempfile.TemporaryDirectory(prefix="hearthring-demo-") as scratch, _ring() as ring:
        folder = Path(scratch)
        print(f"starting {NODES} nodes on this machine; three of them know only the first\n")
        ring.append(_node(0, windows[0], folder / "node0"))
        invite = ring[0].ready()
        _tell(ring[0], invite)
        for i in range(1, NODES):
            ring.append(_node(i, windows[i], folder / f"node{i}", invite))
        for node in ring[1:]:
            _tell(node, node.ready())
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
    ring: list[NodeProcess],
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
    liar = ring[LIAR] = _node(LIAR, windows[LIAR], folder / "liar", invite, FAULT)
    invited = liar.ready()
    _tell(liar, invited)
    print(f"\n> {PROMPT}\n")
    path = _save(_ask(client, max_tokens), keep or folder, "lying.proof")
    verdict = _audit(client, path)
    named = [guilty.node for guilty in verdict.guilty]
    return verdict.outcome is Outcome.REJECTED and named == [invited.rpartition("/")[2]]


@contextlib.contextmanager
def _ring() -> Iterator[list[NodeProcess]]:
    """The nodes of the demo: stopped together at its end, the first last."""
    nodes: list[NodeProcess] = []

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


def _node(place: int, window: str, data: Path, join: str = "", fault: str = "") -> NodeProcess:
    flags = ["--model", "smollm2", "--layers", window, "--listen", "127.0.0.1:0"]
    flags += ["--data", str(data), "--threads", "1", *(["--join", join] if join else [])]
    name = f"node {place + 1}{', lying' if fault else ''}, layers {window}"
    return NodeProcess(name, flags, fault)


def _tell(node: NodeProcess, invitation: str) -> None:
    ready = next((line.split("after ")[1] for line in node.seen if "after " in line), "")
    took = f", ready after {ready.split(' s')[0]} s" if ready else ""
    print(f"  {node.name}, {invitation.rpartition('/')[2]}{took}", flush=True)


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
    verdict = client.audit(Proof.load(path))
    print_verdict(verdict)
    return verdict
