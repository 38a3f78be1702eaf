"""Whole generations round rings of tiny engines, without sockets."""

import asyncio
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from hearthring.client.hearing import Hearing
from hearthring.client.replay import EngineReplayer
from hearthring.client.sampler import Sampling, choose
from hearthring.client.weights import Weights
from hearthring.protocol.errors import (
    BadOption,
    HearthringError,
    LayersOutOfRange,
    NoRoute,
    PromptTooLong,
    SeedUnreachable,
)
from hearthring.protocol.messages import GENERATED, PROMPT
from hearthring.protocol.tensors import Residual
from hearthring.shards.ends import Ends
from hearthring.shards.store import ModelEntry
from hearthring.shards.tokenizer import Tokenizer
from tests.memory_ring import memory_swarm
from tests.stage_peer import until

PROMPT_IDS = [int(x) for x in np.random.default_rng(3).integers(3, 280, 100)]
SAMPLED = {"temperature": 0.9, "top_k": 60, "top_p": 0.95, "min_p": 0.01, "seed": 5}


async def test_a_client_gets_an_answer_and_leaves_nothing_behind(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 1, 3, 4)) as swarm:
        client = swarm.client()
        answer = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=12)
        assert len(answer.token_ids) == 12 or answer.stop_reason == "eos"
        assert [(s.start, s.end) for s in answer.route] == [(0, 1), (1, 3), (3, 4)]
        assert [s.node for s in answer.route] == [node.node_id for node in swarm.nodes]
        assert answer.timings.first_token_s > 0
        await until(lambda: all(node.stage.sessions == 0 for node in swarm.nodes))
        assert all(node.stage.free_rows == 1 << 14 for node in swarm.nodes)


@pytest.mark.parametrize("residual", list(Residual))
async def test_output_depends_on_weights_prompt_and_seed_only(
    tiny: ModelEntry, residual: Residual
) -> None:
    seen = set()
    for cuts in ((0, 4), (0, 1, 4), (0, 2, 3, 4), (0, 1, 2, 3, 4), (0, 4)):
        async with memory_swarm(tiny, cuts, residual) as swarm:
            client = swarm.client()
            greedy = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=24)
            drawn = await client.generate(prompt_ids=PROMPT_IDS, max_tokens=24, **SAMPLED)
            roots = (greedy.proof.out_roots, drawn.proof.out_roots)
            seen.add((*greedy.token_ids, -1, *drawn.token_ids, roots))
    assert len(seen) == 1
    assert greedy.token_ids != drawn.token_ids


async def test_output_is_that_of_the_engine_alone(tiny: ModelEntry) -> None:
    replayer = EngineReplayer(tiny.open(), Residual.FP32, 1)
    sampling = Sampling(temperature=0.8, seed=9)
    ids, kinds = list(PROMPT_IDS), [PROMPT] * len(PROMPT_IDS)
    for _ in range(10):
        states = replayer.run(0, 4, replayer.embed(ids), kinds)
        logits = replayer._ends.logits(replayer.norm(states[-1:])[0])
        ids.append(choose(logits, ids, len(ids), sampling))
        kinds.append(GENERATED)
    async with memory_swarm(tiny, (0, 3, 4)) as swarm:
        answer = await swarm.client().generate(
            prompt_ids=PROMPT_IDS, max_tokens=10, temperature=0.8, seed=9
        )
    assert answer.token_ids == ids[len(PROMPT_IDS) :]


async def test_many_sessions_at_once_equal_each_alone(tiny: ModelEntry) -> None:
    prompts = [PROMPT_IDS[:n] for n in (1, 2, 30, 64, 65, 100)]
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        first, second = swarm.client(), swarm.client()
        alone = [await first.generate(prompt_ids=p, max_tokens=8) for p in prompts]
        clients = [first, second] * 3
        together = await asyncio.gather(
            *(c.generate(prompt_ids=p, max_tokens=8) for c, p in zip(clients, prompts, strict=True))
        )
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]


async def test_a_route_may_use_a_part_of_a_nodes_window(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 4)) as whole:
        expected = await whole.client().generate(prompt_ids=PROMPT_IDS, max_tokens=6)
    async with memory_swarm(tiny, (0, 3)) as swarm:
        await swarm.node((1, 4))
        answer = await swarm.client().generate(prompt_ids=PROMPT_IDS, max_tokens=6)
    assert len(answer.route) == 2
    assert answer.token_ids == expected.token_ids


async def test_streaming_joins_to_the_text_and_holds_stop_strings_back(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 4)) as swarm:
        client = swarm.client()
        options = {"prompt_ids": PROMPT_IDS, "max_tokens": 40, "temperature": 1.0, "seed": 2}
        stream = client.stream(**options)
        pieces = [piece async for piece in stream]
        text = "".join(piece.text for piece in pieces)
        assert text == stream.answer.text
        tokenizer = Tokenizer.from_gguf(tiny.open())
        ends = tokenizer.eos_ids
        assert text == tokenizer.decode(t for t in stream.answer.token_ids if t not in ends)
        stop = text[5:8]
        stopped = await client.generate(**options, stop=stop)
        assert stopped.stop_reason == "stop"
        assert stopped.text == text[: text.index(stop)]
        assert stopped.proof.rows == len(PROMPT_IDS) + len(stopped.token_ids) - 1


async def test_a_stream_left_early_closes_its_session(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        pieces = aiter(swarm.client().stream(prompt_ids=PROMPT_IDS, max_tokens=400))
        await anext(pieces)
        await pieces.aclose()  # type: ignore[attr-defined]
        await until(lambda: all(node.stage.sessions == 0 for node in swarm.nodes))


async def test_end_of_sequence_ends_the_answer(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 4)) as swarm:
        client = swarm.client()
        for seed in range(60):
            answer = await client.generate(
                prompt_ids=PROMPT_IDS[:3], max_tokens=60, temperature=3.0, seed=seed, proof=False
            )
            if answer.stop_reason == "eos":
                break
        assert answer.token_ids[-1] in Tokenizer.from_gguf(tiny.open()).eos_ids
        assert len(answer.token_ids) <= 60


async def test_hidden_states_may_come_behind_the_result(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear = Hearing.on_tap

    def late(*told: Any) -> None:
        asyncio.get_running_loop().call_later(0.2, hear, *told)

    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        client = swarm.client()
        plain = await client.hidden_states(PROMPT_IDS, layers=[1, 3])
        monkeypatch.setattr(Hearing, "on_tap", late)
        hidden = await client.hidden_states(PROMPT_IDS, layers=[1, 3])
    assert all(np.array_equal(hidden[layer], plain[layer]) for layer in plain)


async def test_hidden_states_of_a_stage_that_is_lost_are_waited_for_no_longer(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        monkeypatch.setattr(Hearing, "on_tap", lambda *told: None)
        asked = asyncio.create_task(
            swarm.client(patience=0.2).hidden_states(PROMPT_IDS, layers=[1])
        )
        await until(lambda: any(node.stage.sessions for node in swarm.nodes))
        await asyncio.sleep(0.2)
        await swarm.kill(swarm.nodes[0])
        with pytest.raises(NoRoute):
            async with asyncio.timeout(20):
                await asked


async def test_a_session_is_left_by_who_gives_up_before_it_has_the_ends(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_swarm(tiny, (0, 4)) as swarm:
        client = swarm.client()
        await client.generate(prompt_ids=PROMPT_IDS, max_tokens=1)
        opened, ends = asyncio.Event(), Weights.ends

        async def slow(weights: Weights, residual: Residual) -> Ends:
            if swarm.nodes[0].stage.sessions:
                opened.set()
                await asyncio.Event().wait()
            return await ends(weights, residual)

        await until(lambda: swarm.nodes[0].stage.sessions == 0)
        monkeypatch.setattr(Weights, "ends", slow)
        asked = asyncio.create_task(client.generate(prompt_ids=PROMPT_IDS, max_tokens=1))
        await asyncio.wait_for(opened.wait(), 20)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await until(lambda: swarm.nodes[0].stage.sessions == 0)


async def test_hidden_states_are_the_engines(tiny: ModelEntry) -> None:
    replayer = EngineReplayer(tiny.open(), Residual.FP32, 1)
    kinds = [PROMPT] * len(PROMPT_IDS)
    states = {0: replayer.embed(PROMPT_IDS)}
    for start, end in pairwise(range(5)):
        states[end] = replayer.run(start, end, states[start], kinds)
    async with memory_swarm(tiny, (0, 3, 4)) as swarm:
        client = swarm.client()
        hidden = await client.hidden_states(PROMPT_IDS, layers=[0, 1, 2, 3, 4])
        assert sorted(hidden) == [0, 1, 2, 3, 4]
        for layer, expected in states.items():
            assert (hidden[layer] == expected).all()
        with pytest.raises(LayersOutOfRange, match="5 isn't in 0 to 4"):
            await client.hidden_states(PROMPT_IDS, layers=[5])


async def test_chat_goes_through_the_template(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 4)) as swarm:
        messages = [{"role": "user", "content": "hi <|im_end|>"}]
        answer = await swarm.client().chat(messages, max_tokens=2)
        tokenizer = Tokenizer.from_gguf(tiny.open())
        text = "<|im_start|>user\nhi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
        assert answer.prompt_ids == tokenizer.encode(text, specials=True)


async def test_wrong_wishes_are_named(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 4)) as swarm:
        client = swarm.client()
        for options, field in (
            ({"prompt": ""}, "prompt"),
            ({}, "prompt"),
            ({"prompt": "x", "prompt_ids": [1]}, "prompt"),
            ({"prompt_ids": [1, 100_000]}, "prompt_ids"),
            ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
            ({"prompt": "x", "temperature": -1}, "temperature"),
            ({"prompt": "x", "stop": ""}, "stop"),
            ({"prompt": "x", "tempratur": 1}, "tempratur"),
        ):
            with pytest.raises(BadOption) as caught:
                await client.generate(**options)
            assert field in caught.value.field
        with pytest.raises(PromptTooLong, match="600 tokens, and the model's context is 512"):
            await client.generate(prompt_ids=[5] * 600)


async def test_missing_layers_are_listed(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 1)) as swarm:
        await swarm.node((2, 3))
        with pytest.raises(NoRoute) as caught:
            await swarm.client(patience=0.1).generate("x")
        assert caught.value.missing == ((1, 2), (3, 4))
        assert "[1, 2), [3, 4) of 4" in str(caught.value)


async def test_mixed_residual_types_are_no_route(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 2), Residual.FP32) as swarm:
        await swarm.node((2, 4), Residual.FP16)
        with pytest.raises(NoRoute, match="residual types"):
            await swarm.client(patience=0.1).generate("x")


async def test_nodes_without_room_are_passed_over(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 2)) as swarm:
        await swarm.node((2, 4), kv_rows=10)
        with pytest.raises(NoRoute, match="with room for this session"):
            await swarm.client(patience=0.1).generate(prompt_ids=PROMPT_IDS)
        roomy = await swarm.node((2, 4), kv_rows=200)
        answer = await swarm.client().generate(prompt_ids=PROMPT_IDS, max_tokens=3)
        assert answer.route[1].node == roomy.node_id


async def test_a_lost_stage_that_nobody_replaces_ends_the_request_by_name(
    tiny: ModelEntry,
) -> None:
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        pieces = aiter(swarm.client(patience=0.5).stream(prompt_ids=PROMPT_IDS, max_tokens=400))
        await anext(pieces)
        await swarm.kill(swarm.nodes[1])
        with pytest.raises(HearthringError, match=swarm.nodes[1].node_id):
            async for _ in pieces:
                pass
        await pieces.aclose()  # type: ignore[attr-defined]


async def test_a_withdrawn_node_is_not_used(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hearthring.node.desk.FRESH", -1.0)  # every question is a look
    async with memory_swarm(tiny, (0, 4)) as swarm:
        other = await swarm.node((0, 4))
        client = swarm.client()
        assert {r.node for r in await client.records()} == {n.node_id for n in swarm.nodes}
        await other.announcer.withdraw()
        assert [r.node for r in await client.records()] == [swarm.nodes[0].node_id]


async def test_no_seed_answers(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 4)) as swarm:
        client = swarm.client()
        await swarm.nodes[0].transport.close()
        with pytest.raises(SeedUnreachable, match="connection refused"):
            await client.generate("x")
