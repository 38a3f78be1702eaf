"""Mutated frames: each decodes, or is a named error of a peer. The seed is in the test's name."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hearthring.protocol.errors import ProtocolError
from hearthring.protocol.messages import AttachUp, Cancel, EvidenceQuery, Finish
from hearthring.protocol.wire import encode_up
from hearthring.shards.torch_engine import TorchEngine
from tests.frames import CORPUS, WISH
from tests.messages import KINDS
from tests.mutants import ended, mutated, mutated_steps
from tests.stage_peer import honest_beside, rig, tiny_engine

FRAMES, LIVE = 8_000, 1_000


@pytest.mark.parametrize("kind", CORPUS)
def test_every_mutation_decodes_or_is_a_peers_error(kind: str) -> None:
    frames, decode = CORPUS[kind]
    others = [frame for frames, _ in CORPUS.values() for frame in frames]
    draw, decoded, refused = np.random.default_rng(len(kind)), 0, Counter[str]()
    for n in range(FRAMES):
        data = mutated(frames[n % len(frames)], others, draw)
        try:
            message = decode(data)
        except ProtocolError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused[type(error).__name__] += 1
            continue
        decoded += 1
        if kind in KINDS:  # what is taken for a message is one: nothing is out of range
            encode, again, _ = KINDS[kind]
            assert again(encode(message)) == message
    # Otherwise the mutations would be too tame or too harsh.
    assert refused.total() > FRAMES // 50
    assert decoded > (FRAMES // 50 if kind != "record" else 0)


@pytest.fixture(scope="module")
def engine(tiny_gguf: Path) -> TorchEngine:
    return tiny_engine(tiny_gguf)


async def test_mutated_steps_do_not_disturb_an_honest_session(engine: TorchEngine) -> None:
    async with rig(engine) as stage, honest_beside(stage) as honest:
        ends = await mutated_steps(stage, honest, LIVE, np.random.default_rng(1))
    assert len(ends) > 2, ends


async def test_mutated_wishes_do_not_disturb_an_honest_session(engine: TorchEngine) -> None:
    draw, ends = np.random.default_rng(2), Counter[str]()
    async with rig(engine) as stage, honest_beside(stage) as honest:
        others = [encode_up(frame) for frame in (WISH, Cancel((1, 2)), Finish(0, (1,)))]
        for n in range(LIVE):
            peer = await stage.dial(taps=(2,))
            # Whoever knows an honest session's id may try to name it.
            wish = replace(peer.wish, session=honest.wish.session) if n % 3 == 0 else peer.wish
            frames: list[AttachUp] = [wish, Cancel((1, 300)), EvidenceQuery(), Finish(0)]
            place = n % len(frames)
            if place:
                await peer.say(peer.wish)
            await peer.attach.send(mutated(encode_up(frames[place]), others, draw))
            if end := await ended(peer):
                ends[end] += 1
            await peer.leave()
        await stage.settled(1)
    assert len(ends) > 2, ends
