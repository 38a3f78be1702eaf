"""A stage that computed something else than it should costs time, not truth: the text is taken
back to where it was right, and goes on from there. And a request that failed goes on later."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from hearthring.client import prefill
from hearthring.client.answer import Answer
from hearthring.client.answering import Answering
from hearthring.client.closing import finish
from hearthring.client.generation import Generation
from hearthring.client.ring import RingSession
from hearthring.client.rollback import RolledBack
from hearthring.client.sampler import Sampling
from hearthring.client.transcript import Transcript
from hearthring.protocol.errors import BadOption, HearthringError, NoRoute
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.store import ModelEntry
from hearthring.shards.tokenizer import Tokenizer
from tests.doomed import CUTS, OPTIONS, PROMPT_IDS, TOKENS, Turncoat, doomed, same
from tests.memory_ring import MemorySwarm, memory_swarm

LIES = {"in the prompt": (2, 4), "all the time": (1, 9), "at a token": (7, 10)}


@pytest.mark.parametrize("batches", LIES.values(), ids=LIES)
@pytest.mark.parametrize("place", range(3))
async def test_what_a_dead_liar_said_is_taken_back(
    tiny: ModelEntry, undisturbed: Answer, place: int, batches: tuple[int, int]
) -> None:
    lies, dies = batches
    async with doomed(tiny, {place: dies}, {place: lambda e: Turncoat(e, lies)}) as swarm:
        spare = await swarm.node((CUTS[place], CUTS[place + 1]))
        stream = swarm.swarm.client().stream(**OPTIONS)  # type: ignore[arg-type]
        text, taken_back = "", 0
        async with asyncio.timeout(60):
            async for piece in stream:
                taken_back += piece.taken_back
                text = text[: len(text) - piece.taken_back] + piece.text
        answer = stream.answer
    assert answer.route[place].node == spare.node_id
    assert answer.text == text == undisturbed.text
    same(answer, undisturbed)


@dataclass
class Run:
    """A generation whose session the test holds."""

    ring: RingSession
    generation: Generation
    backs: list[int] = field(default_factory=list)

    async def go(self, at: int = 0, then: Callable[[], None] = lambda: None) -> list[int]:
        """Its tokens; ``then`` is called once, when there are ``at`` of them."""
        called = False
        async with asyncio.timeout(60):
            async for token in self.generation.tokens(TOKENS, frozenset()):
                if token is None:
                    self.backs.append(self.generation.made)
                elif self.generation.made == at and not called:
                    called = True
                    then()
        return self.generation.token_ids[len(PROMPT_IDS) :]


async def start(swarm: MemorySwarm, patience: float = 30.0) -> Run:
    client = swarm.client(patience=patience)
    ring, ends = await client.sessions.open(len(PROMPT_IDS) + 4 * TOKENS)
    sampling = Sampling(temperature=0.9, seed=4)
    return Run(ring, Generation(ring, ends, client.heads, sampling, list(PROMPT_IDS)))


@pytest.mark.parametrize("to", [-1, len(PROMPT_IDS) - 1, len(PROMPT_IDS) + 2])
async def test_rows_behind_a_position_are_made_anew(
    tiny: ModelEntry, undisturbed: Answer, to: int
) -> None:
    async with memory_swarm(tiny, CUTS) as swarm:
        run = await start(swarm)
        async with run.ring:
            assert await run.go(6, lambda: run.ring.roll_back(to)) == undisturbed.token_ids
            assert run.ring.epoch == 0
            assert [row.position for row in run.generation.rows] == list(range(209))
            receipts = await finish(run.ring, run.generation.uncommitted)
            assert None not in receipts
    assert run.backs == [max(to, len(PROMPT_IDS) - 1) + 1 - len(PROMPT_IDS)]


async def test_a_flush_commits_to_nothing_that_is_void(
    tiny: ModelEntry, undisturbed: Answer
) -> None:
    """As one that waited until the ring was whole again, when that had shown other rows."""
    async with memory_swarm(tiny, CUTS) as swarm:
        run = await start(swarm)
        async with run.ring:
            await run.go()
            ring, generation = run.ring, run.generation
            assert generation.uncommitted
            ring.roll_back(len(PROMPT_IDS) + 2)
            with pytest.raises(RolledBack) as told:
                await generation.flush()
            generation.take_back(told.value)
            assert set(ring.flight.committed) <= set(ring.flight.live)
            assert await run.go() == undisturbed.token_ids
            assert None not in await finish(ring, generation.uncommitted)


@pytest.mark.parametrize("place", range(3))
async def test_a_convicted_stage_is_replaced_and_all_it_spoilt_is_found(
    tiny: ModelEntry, undisturbed: Answer, place: int
) -> None:
    """It lies from its eighth batch on; the check knows only of the last token."""
    async with doomed(tiny, {}, {place: lambda e: Turncoat(e, 8)}) as swarm:
        liar, spare = swarm.swarm.nodes[place], await swarm.node((CUTS[place], CUTS[place + 1]))
        run = await start(swarm.swarm)
        async with run.ring:
            last = len(PROMPT_IDS) + 6
            made = await run.go(8, lambda: run.ring.roll_back(last, liar.node_id, "it lied"))
            assert made == undisturbed.token_ids
            assert run.ring.route[place].node == spare.node_id
            assert "it lied" in run.ring.mended[0].reason
    assert min(run.backs) < 6, "the lies before the convicted one were found in the replay"


async def test_a_convicted_stage_isnt_used_even_if_there_is_no_other(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 4)) as swarm:
        run = await start(swarm, 0.3)
        liar = swarm.nodes[0].node_id
        async with run.ring:
            with pytest.raises(NoRoute) as failed:
                await run.go(2, lambda: run.ring.roll_back(0, liar, "it lied"))
        assert failed.value.missing == ((0, 4),)
        assert "it lied" in str(failed.value)


async def test_what_a_dead_liar_made_of_an_earlier_sessions_tokens_is_taken_back(
    tiny: ModelEntry, undisturbed: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the text is sent: what hung on it isn't, and its rows' ids aren't used again."""
    monkeypatch.setattr(prefill, "RESUMED", 2)
    monkeypatch.setattr(prefill, "IN_FLIGHT", 1)
    prompt, made = len(PROMPT_IDS), undisturbed.token_ids[:-1]
    async with doomed(tiny, {1: 7}, {1: lambda e: Turncoat(e, 5)}) as swarm:
        await swarm.node((CUTS[1], CUTS[2]))
        client = swarm.swarm.client()
        ring, ends = await client.sessions.open(prompt + 4 * TOKENS)
        sampling = Sampling(temperature=0.9, seed=4)
        text = [*PROMPT_IDS, *made]
        run = Run(ring, Generation(ring, ends, client.heads, sampling, text, prompt_tokens=prompt))
        async with ring:
            assert await run.go() == undisturbed.token_ids
            (mended,) = ring.mended
            assert len(mended.lost) == 1
            assert None not in await finish(ring, run.generation.uncommitted)
    assert run.backs == [1]


async def test_an_unknown_node_cant_be_evicted_but_rows_are_taken_back(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, CUTS) as swarm:
        run = await start(swarm)
        async with run.ring:
            await run.generation.prefill()
            run.ring.roll_back(3, "nobody")
            with pytest.raises(RolledBack) as told:
                await finish(run.ring, [])
            assert told.value.position == len(PROMPT_IDS) - 1, "the prompt stays"


async def broken(
    tiny: ModelEntry, act: Callable[[MemorySwarm, HearthringError], Awaitable[None]]
) -> None:
    """A request that fails in its middle."""
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        client = swarm.client(patience=0.3)
        stream = client.stream(**OPTIONS)  # type: ignore[arg-type]
        pieces = aiter(stream)
        for _ in range(4):
            await anext(pieces)
        await swarm.kill(swarm.nodes[1])
        with pytest.raises(NoRoute) as failed:
            async for _ in pieces:
                pass
        assert failed.value.missing == ((2, 4),)
        await act(swarm, failed.value)


async def test_a_request_that_failed_goes_on_when_the_swarm_is_whole(
    tiny: ModelEntry, undisturbed: Answer
) -> None:
    async def act(swarm: MemorySwarm, error: HearthringError) -> None:
        with pytest.raises(NoRoute) as again:
            await swarm.client(patience=0.3).resume(error)
        await swarm.node((2, 4))
        stream = swarm.client().resume_stream(again.value)
        pieces = [piece async for piece in stream]
        answer = stream.answer
        assert answer.text == undisturbed.text
        assert [p.token_id for p in pieces] == undisturbed.token_ids[4:]
        same(answer, undisturbed)

    await broken(tiny, act)


@pytest.mark.parametrize(
    ("ended_by", "tokens"), [("length", TOKENS), ("length", 1), ("stop", TOKENS), ("eos", TOKENS)]
)
async def test_a_request_that_failed_behind_its_last_token_gets_its_proof(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch, ended_by: str, tokens: int
) -> None:
    """It failed in a spot check, say. Nothing is told twice."""
    options = OPTIONS | {"max_tokens": tokens}
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        client = swarm.client()
        plain = await client.generate(**options)  # type: ignore[arg-type]
        if ended_by == "stop":
            options |= {"max_tokens": TOKENS, "stop": plain.text[-1]}
            plain = await client.generate(**options)  # type: ignore[arg-type]
        elif ended_by == "eos":
            read = Tokenizer.from_gguf

            def ending(gguf: GgufFile) -> Tokenizer:
                tokenizer = read(gguf)
                tokenizer.eos_ids |= {plain.token_ids[-1]}
                return tokenizer

            monkeypatch.setattr(Tokenizer, "from_gguf", ending)
            client, options = swarm.client(), options | {"max_tokens": TOKENS}
            plain = await client.generate(**options)  # type: ignore[arg-type]
        assert plain.stop_reason == ended_by

        async def lost(*_: object) -> None:
            raise NoRoute("everybody is away")

        with monkeypatch.context() as patched:
            patched.setattr(Answering, "_prove", lost)
            with pytest.raises(NoRoute) as failed:
                await client.generate(**options)  # type: ignore[arg-type]
        stream = client.resume_stream(failed.value)
        pieces = [piece async for piece in stream]
        same(stream.answer, plain)
    assert (stream.answer.text, stream.answer.stop_reason) == (plain.text, ended_by)
    assert "".join(piece.text for piece in pieces) == ""
    assert all(piece.token_id is None for piece in pieces)


async def test_what_isnt_a_requests_error_cant_be_resumed(tiny: ModelEntry) -> None:
    async with memory_swarm(tiny, (0, 4)) as swarm:
        for error in (NoRoute("x"), BadOption("y")):
            with pytest.raises(BadOption, match="carries no request"):
                await swarm.client().resume(error)


def test_a_transcript_says_what_is_taken_back(tiny: ModelEntry) -> None:
    tokenizer = Tokenizer.from_gguf(tiny.open())
    ids = tokenizer.encode("the sky is blue", specials=False)
    transcript = Transcript(tokenizer, ["red"])
    for token in ids:
        assert transcript.feed(token) is not None
    assert transcript.finish() is None
    assert transcript.text == "the sky is blue"
    piece = transcript.rewind(tokenizer.encode("the sky is r", specials=False))
    assert (transcript.text, piece.text, piece.taken_back) == ("the sky is ", "", 4)
    assert not transcript.ended
    for token in tokenizer.encode("ed!", specials=False):
        transcript.feed(token)
    assert (transcript.reason, transcript.text, transcript.ended) == ("stop", "the sky is ", True)
    piece = transcript.rewind([*ids, next(iter(tokenizer.eos_ids))])
    assert (piece.text, piece.taken_back, transcript.reason) == ("blue", 0, "eos")
