"""Real node processes are stopped, asked to leave, and killed in the middle of answers."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from hearthring import AsyncClient
from hearthring.client.answer import Answer
from hearthring.client.auditing import audit_offline
from hearthring.protocol.asking import ask_status
from hearthring.protocol.invitation import Invitation
from hearthring.shards.store import ModelEntry
from hearthring.verify.verdict import Outcome
from tests.swarm.conftest import RunningNode, running

pytestmark = [pytest.mark.swarm, pytest.mark.model]
PROMPT = "The weather in the mountains is often"
OPTIONS = {"max_tokens": 128, "temperature": 0.8, "seed": 7}
WINDOWS = ("0:15", "15:30", "0:15", "15:30")


async def at_work(client: AsyncClient, nodes: list[RunningNode], window: str) -> RunningNode:
    """The node of this window that has a session now."""
    for node in nodes:
        if node.window == window:
            invitation = Invitation.parse(node.invitation)
            if (await ask_status(client.transport(), invitation)).sessions:
                return node
    raise AssertionError("nobody is at work")


async def disturbed(
    client: AsyncClient, nodes: list[RunningNode], window: str, number: int
) -> tuple[Answer, RunningNode]:
    """An answer in whose middle the node of this window that works on it gets a signal."""
    stream = client.stream(PROMPT, **OPTIONS)  # type: ignore[arg-type]
    pieces = aiter(stream)
    for _ in range(8):
        await anext(pieces)
    hit = await at_work(client, nodes, window)
    os.kill(hit.process.process.pid, number)
    if number == signal.SIGTERM:  # it hands over first, which the answer's end must not forestall
        await asyncio.to_thread(hit.process.process.wait, 30)
    async for _ in pieces:
        pass
    return stream.answer, hit


async def test_nodes_that_stop_leave_or_die_cost_no_token(
    smollm2: ModelEntry, tmp_path: Path
) -> None:
    with running(tmp_path, WINDOWS, "--residual", "fp16") as nodes:
        async with AsyncClient([node.invitation for node in nodes], threads=1) as client:
            undisturbed = await client.generate(PROMPT, **OPTIONS)  # type: ignore[arg-type]
            answers = {}
            answers["stopped"], frozen = await disturbed(client, nodes, "15:30", signal.SIGSTOP)
            os.kill(frozen.process.process.pid, signal.SIGCONT)
            answers["leaving"], _ = await disturbed(client, nodes, "0:15", signal.SIGTERM)
            answers["killed"], _ = await disturbed(client, nodes, "15:30", signal.SIGKILL)
    for what, answer in answers.items():
        assert answer.token_ids == undisturbed.token_ids, what
        assert answer.proof.out_roots == undisturbed.proof.out_roots, what
        assert answer.timings.reroutes, what
    assert "leaving" in answers["leaving"].timings.reroutes[0].reason
    assert audit_offline(answers["killed"].proof, 1).outcome is Outcome.ACCEPTED
