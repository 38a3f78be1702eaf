"""The client: ask a swarm, and audit what it says."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, Unpack

from hearthring.client.answer import Answer
from hearthring.client.answering import Answering, AnswerStream
from hearthring.client.audits import Audits
from hearthring.client.config import (
    EXACT,
    ClientConfig,
    engine_of,
    patience_of,
    sharing_of,
    threads_of,
    wire_of,
)
from hearthring.client.depths import WHOLE, proof_of
from hearthring.client.drafts import AUTO, Make, check_draft
from hearthring.client.generation import Generation
from hearthring.client.heads import Heads
from hearthring.client.lessons import open_lessons
from hearthring.client.paces import MakePace, check_pace
from hearthring.client.remembered import open_remembered
from hearthring.client.replacement import PATIENCE
from hearthring.client.request import (
    Messages,
    Options,
    Progress,
    Request,
    Unfinished,
)
from hearthring.client.sampler import Sampling
from hearthring.client.sessions import Sessions
from hearthring.client.standing import open_reputation
from hearthring.client.swarm import Swarm
from hearthring.client.weights import Weights
from hearthring.protocol.errors import (
    BadOption,
    HearthringError,
    LayersOutOfRange,
    Unavailable,
)
from hearthring.protocol.invitation import Invitation
from hearthring.protocol.records import NodeRecord
from hearthring.protocol.tensors import F32, unpack
from hearthring.protocol.transport import Transport
from hearthring.shards.manifest import quiet
from hearthring.shards.store import ModelEntry
from hearthring.verify.proof import Proof
from hearthring.verify.verdict import Verdict


class AsyncClient:
    """A client of one swarm and one model. Use as ``async with AsyncClient(join=[...]) as c``.

    ``join`` takes invitations, or one alone; ``model`` an alias, a path, or the id of a model, by
    default the one that the first seed serves. Tokenizer, embedding and head of a model that isn't
    in the cache are fetched from the swarm, once.
    ``threads`` is the number for embedding and head, ``engine`` what computes them: ``auto`` is
    ggml for quantised weights, else torch. ``reputation`` tells what a node counts for in
    routes (1 is neutral, 0.5 as if twice as slow, 0 never): by default what this user's audits
    have shown, and a ``Reputation`` goes on learning from them; ``sharing`` whose earlier prompts
    may speed up this client's, ``patience`` how many seconds a request waits for a whole
    route, ``allow_class_change`` whether it may go on in another numerics class
    (``ClientConfig``); ``draft`` what guesses tokens to come (``client/drafts.py``), ``pace`` how
    far (``client/paces.py``); ``remember`` whether the tokens of requests and answers are
    kept on this user's disk, to guess later ones from (``client/remembered.py``); ``wire``
    whether rows travel exactly or as ``int8``, which is lossy. Nothing is loaded or dialled before
    it is needed. Several requests may run at once. After an error or a cancellation nothing of a
    request stays open, here or at the nodes.

    Requests raise ``SeedUnreachable``, ``NoRoute``, ``StageFailed``, ``PromptTooLong`` and
    ``BadOption``, all of them ``HearthringError``; construction ``BadOption`` and ``BadMemory``.
    """

    def __init__(
        self,
        join: str | Sequence[str | Invitation] = (),
        model: str | None = None,
        *,
        threads: int | None = None,
        transport: Transport | None = None,
        progress: Progress = quiet,
        reputation: Callable[[str], float] | None = None,
        sharing: str = "own",
        patience: float = PATIENCE,
        allow_class_change: bool = False,
        engine: str = "auto",
        draft: str | Make = AUTO,
        pace: str | MakePace = "auto",
        remember: bool = False,
        wire: str = EXACT,
    ) -> None:
        several = (join,) if isinstance(join, str) else join
        seeds = tuple(Invitation.parse(i) if isinstance(i, str) else i for i in several)
        self.config = ClientConfig(
            seeds,
            model,
            threads_of(threads),
            sharing=sharing_of(sharing),
            patience=patience_of(patience),
            allow_class_change=allow_class_change,
            engine=engine_of(engine),
            remember=remember,
            wire=wire_of(wire),
        )
        # A client of another transport is a part of something, and that something's business.
        memory = reputation or (open_reputation() if transport is None else None)
        lessons = open_lessons() if transport is None else None
        remembered = open_remembered() if remember else None
        if remembered is not None:
            remembered.check()
        self._thread = ThreadPoolExecutor(1, "ends")
        self.heads = Heads(self._thread)
        self.swarm = Swarm(self.config, transport, progress, memory)
        self.weights = Weights(self.swarm, self._thread)
        self.sessions = Sessions(self.swarm, self.weights)
        parts = self.swarm, self.weights, self.sessions, self.heads
        self.answering = Answering(
            *parts, check_draft(draft), check_pace(pace), lessons, remembered
        )
        self._audits = Audits(self.swarm, self._thread)

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Leave the swarm."""
        await self.close()

    async def close(self) -> None:
        """Leave the swarm. Idempotent."""
        await self.swarm.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    # -- asking ----------------------------------------------------------------------------------

    async def generate(self, prompt: str | None = None, **options: Unpack[Options]) -> Answer:
        """The whole answer to a prompt; see ``Options``. A plain prompt is continued as it is."""
        stream = self.stream(prompt, **options)
        async for _ in stream:
            pass
        return stream.answer

    async def resume(self, error: HearthringError) -> Answer:
        """The whole answer to a request that failed with this error, from where it was."""
        stream = self.resume_stream(error)
        async for _ in stream:
            pass
        return stream.answer

    def resume_stream(self, error: HearthringError) -> AnswerStream:
        """As ``resume``, piece by piece: those that weren't there before the error.

        The tokens are those of a request that never failed. Raises ``BadOption`` for an error that
        carries no request.
        """
        begun = error.unfinished if isinstance(error, Unavailable) else None
        if not isinstance(begun, Unfinished):
            raise BadOption("it carries no request", field="error", mend="ask again instead")
        return AnswerStream(self.answering, begun.request, begun)

    async def chat(self, messages: Messages, **options: Any) -> Answer:
        """The assistant's next turn: ``generate(messages=...)``."""
        return await self.generate(messages=messages, **options)

    def stream(self, prompt: str | None = None, **options: Unpack[Options]) -> AnswerStream:
        """As ``generate``, piece by piece; the stream's ``answer`` is there at its end."""
        return AnswerStream(self.answering, Request.read(prompt, options))

    async def hidden_states(
        self, prompt: str | Sequence[int], layers: Sequence[int]
    ) -> dict[int, F32]:
        """The residual stream of a prompt (text or ids) at layer boundaries.

        Boundary b is the residual after b layers: 0 the embeddings, the model's number of layers
        the last, before the final norm. Each is float32 ``[tokens, width]``, computed by the
        swarm's stages as prompt rows. Raises ``LayersOutOfRange`` for other boundaries, and what
        ``generate`` does when the swarm fails.
        """
        model = await self.weights.model()
        if wrong := [layer for layer in layers if not 0 <= layer <= model.shape.layers]:
            raise LayersOutOfRange(f"{wrong[0]} isn't in 0 to {model.shape.layers}", field="layers")
        asked = Request(prompt) if isinstance(prompt, str) else Request(prompt_ids=tuple(prompt))
        ids = model.ids(asked)
        model.room(ids)
        inner = tuple(sorted({layer for layer in layers if layer}))
        ring, ends = await self.sessions.open(len(ids), inner)
        async with ring:
            generation = Generation(ring, ends, self.heads, Sampling(), list(ids))
            await generation.prefill()
            taps = {layer: await ring.taps.of(layer, generation.rows) for layer in inner}
        states = {0: await self.heads.run(ends.embed, ids)} if 0 in layers else {}
        for layer in inner:
            states[layer] = unpack(taps[layer], len(ids), model.shape.width, ends.residual)
        return states

    # -- the swarm -------------------------------------------------------------------------------

    async def records(self) -> list[NodeRecord]:
        """The live, signed records of this client's model. Raises ``SeedUnreachable``."""
        return await self.swarm.records()

    async def model_entry(self) -> ModelEntry:
        """This client's model in the cache; its manifest is fetched first, if need be."""
        return await self.swarm.model_entry()

    async def audit(
        self,
        proof: Proof | str | os.PathLike[str],
        verifiers: int | None = None,
        depth: str = WHOLE,
    ) -> Verdict:
        """Replay a proof, or that in a file, offline, with this machine's own weights; or have it
        judged by so many independent ``verifiers`` of the swarm, an odd number.

        ``depth`` ``cells``: don't replay it whole, but have each stage open drawn cells, which own
        weights check at a small part of the work. Stages do so for their own client, within the
        audit window. Raises ``BadOption`` and ``BadProof``.

        Weights that aren't here are fetched first, if this client knows a swarm that has them.
        Verifiers see the whole proof, tokens included. They need its model; this client doesn't.
        ``depth`` is theirs: see ``SwarmAudit``.
        """
        opened = await asyncio.to_thread(proof_of, proof)
        return await self._audits.audit(opened, verifiers, depth)

    def transport(self) -> Transport:
        """This client's way into the swarm."""
        return self.swarm.transport()
