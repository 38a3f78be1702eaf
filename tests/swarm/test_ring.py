"""SmolLM2 round real processes, against ``transformers``."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from hearthring import AsyncClient, Client, Outcome, Proof
from hearthring.client.auditing import audit_offline
from hearthring.client.replay import EngineReplayer
from hearthring.protocol.messages import PROMPT
from hearthring.protocol.tensors import Residual
from hearthring.shards.store import ModelEntry
from hearthring.shards.tokenizer import Tokenizer
from hearthring.verify.verdict import Guilty, Strength
from tests.memory_ring import memory_swarm
from tests.reference import PROMPTS, greedy, transformers_model
from tests.swarm.conftest import RunningNode, running

pytestmark = [pytest.mark.swarm, pytest.mark.model]
TOKENS = 32


def invited(node: RunningNode) -> Client:
    return Client([node.invitation], threads=1)


@pytest.fixture(scope="module")
def oracle(smollm2: ModelEntry) -> dict[str, tuple[list[int], list[int]]]:
    """Prompt ids and greedy ids of ``transformers``, by name of the prompt."""
    gguf = smollm2.open()
    model, tokenizer = transformers_model(gguf), Tokenizer.from_gguf(gguf)
    found = {}
    for name, text in PROMPTS.items():
        ids = tokenizer.encode(text, specials=True)
        found[name] = ids, greedy(model, ids, TOKENS, tokenizer.eos_ids)
    return found


def test_greedy_ids_equal_transformers(
    ring: list[RunningNode], oracle: dict[str, tuple[list[int], list[int]]]
) -> None:
    with invited(ring[2]) as client:
        for name, (prompt_ids, expected) in oracle.items():
            answer = client.generate(PROMPTS[name], max_tokens=TOKENS, proof=False)
            assert answer.prompt_ids == prompt_ids
            assert answer.token_ids == expected, name
            assert [s.node for s in answer.route] == [node.node_id for node in ring]


def test_the_ring_equals_one_process(ring: list[RunningNode], smollm2: ModelEntry) -> None:
    """Final states too, bit for bit: the audit replays in one process and compares hashes."""
    with invited(ring[0]) as client:
        answer = client.generate(PROMPTS["digits"], max_tokens=24, temperature=0.8, seed=3)
        verdict = client.audit(answer.proof)
        assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS)
        hidden = client.hidden_states(PROMPTS["code"], layers=[0, 12, 30])
    replayer = EngineReplayer(smollm2.open(), Residual.FP32, 1)
    ids = Tokenizer.from_gguf(smollm2.open()).encode(PROMPTS["code"], specials=True)
    kinds = [PROMPT] * len(ids)
    states = replayer.embed(ids)
    assert (hidden[0] == states).all()
    states = replayer.run(0, 12, states, kinds)
    assert (hidden[12] == states).all()
    assert (hidden[30] == replayer.run(12, 30, states, kinds)).all()


def test_hidden_states_are_transformers(ring: list[RunningNode], smollm2: ModelEntry) -> None:
    with invited(ring[1]) as client:
        ours = client.hidden_states(PROMPTS["prose"], layers=[1, 12, 29])
    ids = Tokenizer.from_gguf(smollm2.open()).encode(PROMPTS["prose"], specials=True)
    with torch.inference_mode():
        theirs = transformers_model(smollm2.open())(
            torch.tensor([ids]), output_hidden_states=True
        ).hidden_states
    for layer, states in ours.items():
        expected = theirs[layer][0].numpy()
        error = np.linalg.norm(states - expected) / np.linalg.norm(expected)
        assert error < 1e-4, (layer, error)


async def test_two_clients_at_once(ring: list[RunningNode]) -> None:
    async with AsyncClient([ring[0].invitation]) as one, AsyncClient([ring[3].invitation]) as two:
        alone = await one.generate(PROMPTS["prose"], max_tokens=12)
        both = await asyncio.gather(
            one.generate(PROMPTS["prose"], max_tokens=12),
            two.generate(PROMPTS["prose"], max_tokens=12),
        )
    assert [a.token_ids for a in both] == [alone.token_ids] * 2
    assert both[0].proof.client == both[1].proof.client


def test_streamed_characters_are_whole(ring: list[RunningNode]) -> None:
    prompt = "Repeat exactly: naïve café 日本語 🙂🙂 — “quotes”\nnaïve café 日本語 🙂"
    with invited(ring[0]) as client:
        stream = client.stream(prompt, max_tokens=24)
        pieces = [piece.text for piece in stream]
    assert "".join(pieces) == stream.answer.text
    assert all("\ufffd" not in piece for piece in pieces)


async def test_processes_change_nothing(smollm2: ModelEntry, tmp_path: Path) -> None:
    """Three processes in fp16 give the ids and the bits of one engine in this process."""
    options = {"temperature": 0.8, "top_p": 0.95, "seed": 11, "max_tokens": 16}
    with running(tmp_path, ("0:2", "2:19", "19:30"), "--residual", "fp16") as nodes:
        async with AsyncClient([nodes[1].invitation]) as client:
            ring = await client.generate(PROMPTS["chat"], **options)  # type: ignore[arg-type]
    async with memory_swarm(smollm2, (0, 30), Residual.FP16) as swarm:
        alone = await swarm.client().generate(PROMPTS["chat"], **options)  # type: ignore[arg-type]
    assert len(ring.route) == 3
    assert ring.token_ids == alone.token_ids
    assert ring.proof.out_roots == alone.proof.out_roots


def test_half_precision_residuals_agree_with_fp32(smollm2: ModelEntry) -> None:
    """Teacher-forced on fp32's own texts: fp16's best token is fp32's in 99 % of positions."""
    gguf = smollm2.open()
    tokenizer = Tokenizer.from_gguf(gguf)
    whole = {kind: EngineReplayer(gguf, kind, 1) for kind in (Residual.FP32, Residual.FP16)}
    same = total = 0
    margins = []
    for text in PROMPTS.values():
        ids = tokenizer.encode(text, specials=True)
        logits = {}
        for kind, replayer in whole.items():
            states = replayer.run(0, 30, replayer.embed(ids), [PROMPT] * len(ids))
            normed = replayer.norm(states)
            logits[kind] = np.stack([replayer._ends.logits(row) for row in normed])
        best = {kind: values.argmax(axis=1) for kind, values in logits.items()}
        differs = best[Residual.FP32] != best[Residual.FP16]
        top = np.sort(logits[Residual.FP32][differs], axis=1)[:, -2:]
        margins += list(top[:, 1] - top[:, 0])
        same += int((~differs).sum())
        total += len(ids)
    print(f"{same} of {total} positions agree; margins where not: {margins}")
    assert same >= 0.99 * total
    assert all(margin < 0.2 for margin in margins)


def test_a_lying_process_is_named(ring: list[RunningNode], tmp_path: Path) -> None:
    with (
        running(tmp_path, ("0:15",), fault="other-weights:6") as liar,
        running(tmp_path / "b", ("15:30",), join=liar[0].invitation) as rest,
        invited(rest[0]) as client,
    ):
        answer = client.generate(PROMPTS["chat"], max_tokens=8)
    path = answer.proof.save(tmp_path / "lie.proof")
    verdict = audit_offline(Proof.load(path), 1)
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.guilty == (Guilty(liar[0].node_id, 0, 15),)


def test_two_nodes_of_four_windows_go_round_twice(smollm2: ModelEntry, tmp_path: Path) -> None:
    """A piped ring of real processes, with a proof that every window is audited by."""
    windows = "0:8,16:23", "8:16,23:30"
    with running(tmp_path, windows, "--engine", "ggml") as nodes, invited(nodes[1]) as client:
        answer = client.generate(PROMPTS["code"], max_tokens=TOKENS)
        assert [s.node for s in answer.route] == [node.node_id for node in nodes] * 2
        assert [(s.start, s.end) for s in answer.route] == [(0, 8), (8, 16), (16, 23), (23, 30)]
        for depth in ("whole", "cells"):
            verdict = client.audit(answer.proof, depth=depth)
            assert (verdict.outcome, verdict.strength) == (Outcome.ACCEPTED, Strength.BITS)
