"""The commands as a user runs them, against real processes."""

import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from hearthring import Client
from hearthring.protocol.limits import LIMITS
from tests.swarm.conftest import RunningNode, hearthring, running

pytestmark = [pytest.mark.swarm, pytest.mark.model]


def test_ask_audit_and_swarm(ring: list[RunningNode], tmp_path: Path) -> None:
    proof = tmp_path / "sky.proof"
    join = ["--join", ring[1].invitation]
    flags = ["--max-tokens", "8", "--threads", "1", "--proof", str(proof)]
    asked = hearthring("ask", *join, *flags, "--json", "Why is the sky blue?")
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert {"text", "prompt_ids", "token_ids", "timings", "route", "proof"} <= set(answer)
    assert {"first_token_s", "decode_tokens_per_s"} <= set(answer["timings"])
    assert [(s["node"], s["start"], s["end"]) for s in answer["route"]] == [
        (node.node_id, *map(int, node.window.split(":"))) for node in ring
    ]
    assert answer["proof"] == str(proof)
    audited = hearthring("audit", str(proof), "--json")
    assert audited.returncode == 0, audited.stdout + audited.stderr
    assert json.loads(audited.stdout)["verdict"] == "accepted"
    shown = hearthring("swarm", *join, "--json")
    swarm = json.loads(shown.stdout)
    assert {"model", "layers", "nodes", "missing"} <= set(swarm)
    assert (swarm["layers"], swarm["missing"]) == (30, [])
    assert {"node", "start", "end", "address", "numerics", "load"} <= set(swarm["nodes"][0])
    plain = hearthring("ask", *join, "--max-tokens", "4", "--raw", "2 4 6 8")
    assert plain.returncode == 0
    assert "tokens/s" in plain.stderr


def test_chat_remembers_its_turns(ring: list[RunningNode]) -> None:
    first, second = "Name a colour.", "Name another one."
    join, greedy = ring[0].invitation, {"max_tokens": 6, "temperature": 0.0}
    flags = ["--max-tokens", "6", "--temperature", "0", "--threads", "1"]
    talked = hearthring("chat", "--join", join, *flags, input=f"{first}\n{second}\n\n")
    assert talked.returncode == 0, talked.stderr
    with Client([join], threads=1) as client:

        def said(*turns: str) -> str:
            roles = ("user", "assistant", "user")
            messages = [{"role": r, "content": c} for r, c in zip(roles, turns, strict=False)]
            return client.generate(messages=messages, **greedy).text  # type: ignore[arg-type]

        reply = said(first)
        remembered = said(first, reply, second)
        assert remembered != said(second)
    assert talked.stdout == f"{reply}\n{remembered}\n"


def test_leaving_dying_and_joining(tmp_path: Path) -> None:
    """A stopped node's record goes at once, a killed one's by itself; a new node is used."""
    with running(tmp_path / "a", ("0:15", "15:30", "15:30")) as nodes:
        first, second, third = nodes
        with Client([first.invitation], threads=1) as client:

            def serving() -> set[str]:
                return {record.node for record in client.records()}

            def until(expected: set[str], seconds: float) -> None:
                deadline = time.monotonic() + seconds
                while serving() != expected and time.monotonic() < deadline:
                    time.sleep(0.1)
                assert serving() == expected

            until({first.node_id, second.node_id, third.node_id}, 10)
            assert second.process.stop() == 0
            until({first.node_id, third.node_id}, 5)
            os.killpg(third.process.process.pid, signal.SIGKILL)
            until({first.node_id}, LIMITS.record_life + 6)
            short = hearthring("ask", "--join", first.invitation, "hi")
            assert short.returncode == 69
            assert "nobody serves layers [15, 30) of 30" in short.stderr
            with running(tmp_path / "b", ("15:30",), join=first.invitation) as (late,):
                with Client([late.invitation], threads=1) as other:
                    answer = other.generate("2 4 6 8", max_tokens=3)
                assert [stage.node for stage in answer.route] == [first.node_id, late.node_id]


def test_a_dead_node_in_the_directory_is_passed_over(tmp_path: Path) -> None:
    """Its record outlives it by seconds; a request finds another node by itself."""
    with running(tmp_path, ("0:15", "15:30", "15:30")) as nodes:
        first, second, third = nodes
        with Client([first.invitation], threads=1) as client:
            client.generate("2 4 6 8", max_tokens=2)
            os.killpg(second.process.process.pid, signal.SIGKILL)
            answer = client.generate("2 4 6 8", max_tokens=3)
            assert [stage.node for stage in answer.route] == [first.node_id, third.node_id]


def test_the_demo_leaves_nothing_behind() -> None:
    # Other tests run beside this one; sockets want a short path.
    with tempfile.TemporaryDirectory(prefix="demo-") as own:
        shown = hearthring("demo", "--max-tokens", "12", seconds=240, TMPDIR=own)
        left = {name for name in os.listdir(own) if "hearthring" in name or "hivemind" in name}
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "accepted: every row is bit for bit what the model gives" in shown.stdout
    assert "rejected: " in shown.stdout
    assert "guilty" in shown.stdout
    assert left == set()
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "hearthring-demo-" not in listed.stdout
