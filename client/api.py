"""The client: ask a swarm, and audit what it says."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, Unpack

from hearthring.client.answer import Answer, Piece
from hearthring.client.audits import Audits, remember
from hearthring.client.cell_audit import WHOLE, load_cells
from hearthring.client.config import (
    SHARING,
    ClientConfig,
    engine_of,
    patience_of,
    sharing_of,
    threads_of,
)
from hearthring.client.draft import Setting
from hearthring.client.drafts import AUTO, Make, MakePace, check_draft, open_speculation
from hearthring.client.generation import Generation
from hearthring.client.heads import Heads
from hearthring.client.lessons import Lesson, open_lessons
from hearthring.client.measuring import MeasuringTransport, learn
from hearthring.client.opening import Opening
from hearthring.client.peers import PeerTable
from hearthring.client.proving import prove
from hearthring.client.replacement import PATIENCE, Avoided, Spares
from hearthring.client.request import (
    Messages,
    Options,
    Progress,
    PromptModel,
    Request,
    Unfinished,
)
from hearthring.client.ring import RingSession
from hearthring.client.rollback import RolledBack
from hearthring.client.route import Stage, View
from hearthring.client.sampler import Sampling
from hearthring.client.seeds import find_records, known_nodes
from hearthring.client.situation import situation_of
from hearthring.client.speculation import Speculation
from hearthring.client.spot_checks import SpotChecks
from hearthring.client.standing import open_reputation
from hearthring.client.transcript import Transcript
from hearthring.protocol.errors import (
    BadOption,
    HearthringError,
    LayersOutOfRange,
    SeedUnreachable,
    Unavailable,
)
from hearthring.protocol.grpc_transport import GrpcTransport
from hearthring.protocol.invitation import Invitation
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.messages import GENERATED, PROMPT
from hearthring.protocol.record_book import RecordBook
from hearthring.protocol.records import NodeRecord
from hearthring.protocol.tensors import F32, Residual, unpack
from hearthring.protocol.transport import Transport
from hearthring.shards.cell_runner import EngineCells
from hearthring.shards.ends import Ends, open_ends
from hearthring.shards.joining import find_model, obtain
from hearthring.shards.manifest import quiet
from hearthring.shards.parts import ENDS, window_parts
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.verify.candidates import snapshot
from hearthring.verify.proof import Proof
from hearthring.verify.verdict import Verdict

SPREAD = 0.05
"""Routes this close to the cheapest are as good: each client has favourites of its own."""
LOOK = 2.0
"""Seconds for a look into the directory while a session waits."""


class AsyncClient:
    """A client of one swarm and one model. Use as ``async with AsyncClient(join=[...]) as c``.

    ``join`` takes invitations; ``model`` an alias, a path, or the id of a model, by default the one
    that the first seed serves. Tokenizer, embedding and head of a model that isn't in the cache
    are fetched from the swarm, once.
    ``threads`` is the number for embedding and head, ``engine`` what computes them: ``auto`` is
    ggml for quantised weights, else torch. ``reputation`` tells what a node counts for in
    routes (1 is neutral, 0.5 as if twice as slow, 0 never): by default what this user's audits
    have shown, and a ``Reputation`` goes on learning from them; ``sharing`` whose earlier prompts
    may speed up this client's, ``patience`` how many seconds a request waits for a whole
    route, ``allow_class_change`` whether it may go on in another numerics class
    (``ClientConfig``); ``draft`` what guesses tokens to come (``client/drafts.py``), ``pace`` who
    decides how far, for experiments. Nothing is loaded or dialled before it is needed.
    Several requests may run at once. After an error or a cancellation nothing of a
    request stays open, here or at the nodes.

    Requests raise ``SeedUnreachable``, ``NoRoute``, ``StageFailed``, ``PromptTooLong`` and
    ``BadOption``, all of them ``HearthringError``.
    """

    def __init__(
        self,
        join: Sequence[str | Invitation] = (),
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
        pace: MakePace | None = None,
    ) -> None:
        self.peers = PeerTable()
        self._book, self._favourites = RecordBook(), secrets.randbits(64)
        seeds = tuple(Invitation.parse(i) if isinstance(i, str) else i for i in join)
        self.config = ClientConfig(
            seeds,
            model,
            threads_of(threads),
            sharing=sharing_of(sharing),
            patience=patience_of(patience),
            allow_class_change=allow_class_change,
            engine=engine_of(engine),
        )
        # A client of another transport is a part of something, and that something's business.
        self.reputation = reputation or (open_reputation() if transport is None else None)
        self._lessons = open_lessons() if transport is None else None
        self._progress = progress
        self._transport = MeasuringTransport(transport, self.peers) if transport else None
        self._thread = ThreadPoolExecutor(1, "ends")
        self._heads = Heads(self._thread)
        self._audits = Audits(self.config, self.transport, self._book, self._thread, progress)
        self._loading = asyncio.Lock()
        self._finding = asyncio.Lock()
        self._loading_cells = asyncio.Lock()
        self._cells: dict[tuple[int, int, str], EngineCells] = {}
        self._entry: ModelEntry | None = None
        self._model: PromptModel | None = None
        self._ends: dict[Residual, Ends] = {}
        self._records: list[NodeRecord] = []
        self._avoided = Avoided()
        self._draft, self._pace = check_draft(draft), pace
        self._shared: dict[str, Any] = {}

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
        if self._transport is not None:
            await self._transport.close()
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

    def resume_stream(self, error: HearthringError) -> "AnswerStream":
        """As ``resume``, piece by piece: those that weren't there before the error.

        The tokens are those of a request that never failed. Raises ``BadOption`` for an error that
        carries no request.
        """
        begun = error.unfinished if isinstance(error, Unavailable) else None
        if not isinstance(begun, Unfinished):
            raise BadOption("it carries no request", field="error", mend="ask again instead")
        return AnswerStream(self, begun.request, begun)

    async def chat(self, messages: Messages, **options: Any) -> Answer:
        """The assistant's next turn: ``generate(messages=...)``."""
        return await self.generate(messages=messages, **options)

    def stream(self, prompt: str | None = None, **options: Unpack[Options]) -> "AnswerStream":
        """As ``generate``, piece by piece; the stream's ``answer`` is there at its end."""
        return AnswerStream(self, Request.read(prompt, options))

    async def hidden_states(
        self, prompt: str | Sequence[int], layers: Sequence[int]
    ) -> dict[int, F32]:
        """The residual stream of a prompt (text or ids) at layer boundaries.

        Boundary b is the residual after b layers: 0 the embeddings, the model's number of layers
        the last, before the final norm. Each is float32 ``[tokens, width]``, computed by the
        swarm's stages as prompt rows. Raises ``LayersOutOfRange`` for other boundaries.
        """
        model = await self._load()
        if wrong := [layer for layer in layers if not 0 <= layer <= model.shape.layers]:
            raise LayersOutOfRange(f"{wrong[0]} isn't in 0 to {model.shape.layers}", field="layers")
        asked = Request(prompt) if isinstance(prompt, str) else Request(prompt_ids=tuple(prompt))
        ids = model.ids(asked)
        model.room(ids)
        inner = tuple(sorted({layer for layer in layers if layer}))
        ring, ends = await self._open_ring(len(ids), inner)
        async with ring:
            generation = Generation(ring, ends, self._heads, Sampling(), list(ids))
            await generation.prefill()
        states = {0: await self._heads.run(ends.embed, ids)} if 0 in layers else {}
        for layer in inner:
            taps = b"".join(ring.taps[layer, row.id] for row in generation.rows)
            states[layer] = unpack(taps, len(ids), model.shape.width, ends.residual)
        return states

    # -- the swarm -------------------------------------------------------------------------------

    async def records(self) -> list[NodeRecord]:
        """The live, signed records of this client's model."""
        entry, transport = await self.model_entry(), self.transport()
        model_id = entry.model_id
        try:
            _, found = await find_records(transport, self.config.join, self._book, model_id)
        except SeedUnreachable:
            others = known_nodes(self._records)
            if not others:
                raise
            _, found = await find_records(transport, others, self._book, model_id)
        if found:
            self._records = found
        return found

    async def model_entry(self) -> ModelEntry:
        """This client's model in the cache; its manifest is fetched first, if need be."""
        async with self._finding:
            if self._entry is None:
                self._entry = await find_model(
                    self.transport(),
                    self.config.join,
                    self.config.model,
                    ModelStore(),
                    self._progress,
                )
            return self._entry

    async def audit(
        self, proof: Proof, verifiers: int | None = None, depth: str = WHOLE
    ) -> Verdict:
        """Replay a proof offline, with this machine's own weights; or have it judged by so many
        independent ``verifiers`` of the swarm, an odd number.

        ``depth`` ``cells``: don't replay it whole, but have each stage open drawn cells, which own
        weights check at a small part of the work. Stages do so for their own client, within the
        audit window. Raises ``BadOption``.

        Weights that aren't here are fetched first, if this client knows a swarm that has them.
        Verifiers see the whole proof, tokens included. They need its model; this client doesn't.
        ``depth`` is theirs: see ``SwarmAudit``.
        """
        return await self._audits.audit(proof, verifiers, depth, self.reputation)

    def transport(self) -> Transport:
        """This client's way into the swarm."""
        if self._transport is None:
            key = next((seed.key for seed in self.config.join if seed.key), None)
            inner = GrpcTransport(self.config.identity(), key)
            self._transport = MeasuringTransport(inner, self.peers)
        return self._transport

    def view(self, width: int) -> View:
        """What this client's routes go by beside the records, for residual rows of this width."""
        return View(
            self.peers,
            self.reputation,
            row_bytes=width * Residual.FP16.bytes,
            spread=SPREAD,
            seed=self._favourites,
        )

    # -- parts -----------------------------------------------------------------------------------

    async def run(
        self, request: Request, stream: "AnswerStream", begun: Unfinished | None = None
    ) -> AsyncIterator[Piece]:
        """The life of a request: prompt, route, session, tokens, proof, answer.

        Of one that has ``begun`` before only the rest is streamed. An ``Unavailable`` that ends it
        carries what there is so far.
        """
        model = await self._load()
        ids = list(begun.prompt_ids) if begun is not None else model.ids(request)
        made = list(begun.token_ids) if begun is not None else []
        classes = [begun.fingerprint if begun is not None else ""]
        answering = self._answer(request, stream, model, ids, made, classes)
        try:
            async with contextlib.aclosing(answering):
                async for piece in answering:
                    yield piece
        except Unavailable as error:
            error.unfinished = Unfinished(request, tuple(ids), tuple(made), classes[-1])
            raise

    async def _answer(
        self,
        request: Request,
        stream: "AnswerStream",
        model: PromptModel,
        ids: list[int],
        made: list[int],
        classes: list[str],
    ) -> AsyncGenerator[Piece]:
        """One session for a request, whose tokens so far are always in ``made``.

        ``classes`` ends with the numerics class of the last of them, empty before the first.
        """
        limit = min(request.max_tokens, model.room(ids))
        transcript = Transcript(model.tokenizer, request.stop)
        transcript.rewind(made)
        speculation = await self._speculation(request, model)
        ring, ends = await self._open_ring(
            len(ids) + limit,
            extra=speculation.room,
            cells=request.proof or request.spot_check > 0,
            like=classes[-1],
        )
        if ring.max_rows < len(ids) + limit + speculation.room:
            speculation.stop("no stage has room for guesses")
        speculation.rule = request.rule
        speculation.lesson = self._lesson(request, ids, ring.route, speculation)
        async with ring, contextlib.AsyncExitStack() as stack:
            stack.callback(speculation.close)
            generation = Generation(
                ring,
                ends,
                self._heads,
                request.sampling,
                [*ids, *made],
                speculation,
                len(ids),
                begun=stream.begun,
            )
            checks = self._spot_checks(request, generation)
            stack.push_async_callback(remember, self.reputation, checks.lessons)
            stack.push_async_callback(checks.close)
            if made and ring.route[-1].fingerprint != classes[-1]:
                generation.class_changes.append(len(ids) + len(made))
            while True:
                writing = self._write(generation, transcript, limit, model)
                async with contextlib.aclosing(writing):
                    async for piece in writing:
                        made[:] = generation.token_ids[len(ids) :]
                        classes[:] = [ring.route[-1].fingerprint]
                        checks.look()
                        if piece is not None:
                            yield piece
                timings = generation.timings()
                try:
                    await checks.finish()
                    proof = await self._prove(request, generation, model)
                    break
                except RolledBack as back:  # the last stage to be lost had computed something else
                    generation.take_back(back)
                    made[:] = generation.token_ids[len(ids) :]
                    yield transcript.rewind(made)
            if rest := transcript.finish():
                yield rest
            learn(self.peers, ring.route, [t.result for t in generation.trips if t.alone])
            if speculation.lesson is not None:
                await self._heads.run(speculation.lesson.end, speculation.tally)
        stream.finish(
            Answer(
                transcript.text,
                ids,
                made,
                transcript.reason,
                timings,
                ring.route,
                request.sampling.seed,
                speculation.account(),
                tuple(at - len(ids) for at in generation.class_changes),
                checks.answers(len(ids), len(made)),
                tuple(checks.caught),
                proof,
            )
        )

    async def _write(
        self, generation: Generation, transcript: Transcript, limit: int, model: PromptModel
    ) -> AsyncGenerator[Piece | None]:
        """A piece, or ``None``, for every token until the transcript has ended."""
        if transcript.ended:
            return
        tokens = generation.tokens(limit, model.tokenizer.eos_ids)
        async with contextlib.aclosing(tokens):
            async for token in tokens:
                made = generation.token_ids[generation.prompt_tokens :]
                yield transcript.rewind(made) if token is None else transcript.feed(token)
                if transcript.ended:
                    return

    async def _prove(
        self, request: Request, generation: Generation, model: PromptModel
    ) -> Proof | None:
        if not request.proof:
            return None
        who = self.transport().identity
        return await prove(generation, model.entry.model_id, model.entry.name, who)

    def _spot_checks(self, request: Request, generation: Generation) -> SpotChecks:
        """Checks of a request's ring; own layers are fetched and loaded for the first."""
        ring = generation.ring

        async def runner_of(stage: Stage) -> EngineCells:
            key = stage.start, stage.end, stage.fingerprint
            async with self._loading_cells:
                if key not in self._cells:
                    entry, join = await self.model_entry(), self.config.join
                    wanted = window_parts(stage.start, stage.end)
                    gguf = await obtain(self.transport(), join, entry, wanted, self._progress)
                    residual, window = Residual(stage.residual), (stage.start, stage.end)
                    self._cells[key] = await asyncio.to_thread(
                        load_cells, gguf, stage.numerics, residual, window, self.config.threads
                    )
            return self._cells[key]

        def kinds() -> list[int]:
            prompt = generation.prompt_tokens
            return [PROMPT] * prompt + [GENERATED] * max(0, len(generation.rows) - prompt)

        shape = generation.ends.shape
        return SpotChecks(self.transport(), ring, shape, kinds, runner_of, request.spot_check)

    async def _speculation(self, request: Request, model: PromptModel) -> Speculation:
        """The request's draft, made on the thread that it will run on."""
        wish = self._draft if request.draft is None else request.draft
        setting = Setting(model, request.sampling, self.config.threads, shared=self._shared)
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, open_speculation, wish, setting, self._pace, request.explain
        )

    def _lesson(
        self, request: Request, ids: Sequence[int], route: Sequence[Stage], drafted: Speculation
    ) -> Lesson | None:
        """What earlier answers teach for this one; it is remembered in turn."""
        if self._lessons is None or drafted.draft is None or self._model is None:
            return None
        situation = situation_of(
            self._model.entry.model_id,
            request.sampling.temperature,
            request.wording,
            len(ids),
            route,
            self.peers.nearest() / 2,
        )
        return Lesson(self._lessons, drafted.name, situation, ids, request.explain)

    async def _load(self) -> PromptModel:
        async with self._loading:
            if self._model is None:
                entry = await self.model_entry()
                gguf = await obtain(self.transport(), self.config.join, entry, ENDS, self._progress)
                self._model = await asyncio.get_running_loop().run_in_executor(
                    self._thread, PromptModel, entry, gguf
                )
            return self._model

    async def _open_ring(
        self,
        rows: int,
        taps: Sequence[int] = (),
        extra: int = 0,
        cells: bool = False,
        like: str = "",
    ) -> tuple[RingSession, Ends]:
        """An open session with room for so many rows, and ``extra`` ones if there is room;
        with ``cells`` its stages commit to them.

        Its class is that of the fingerprint ``like``, if that is given and another isn't allowed.
        Raises what ``Opening.open`` does.
        """
        extra = extra if rows + extra <= LIMITS.session_rows else 0
        model = await self._load()
        view = self.view(model.shape.width)
        spares = Spares(
            self._look,
            model.shape.layers,
            rows + extra,
            self._avoided,
            view,
            self.config.patience,
            self.config.allow_class_change,
            like,
        )

        async def make(route: tuple[Stage, ...], records: list[NodeRecord]) -> RingSession:
            ends = await self._ends_for(Residual(route[0].residual))
            ring = RingSession(
                self.transport(),
                route,
                model.entry.model_id,
                ends.numerics.fingerprint,
                taps,
                opening.spares,
                SHARING[self.config.sharing],
                cells,
            )
            nodes = [stage.node for stage in route]
            ring.candidates = snapshot(records, nodes, ring.session)
            return ring

        opening = Opening(self._known_records, make, spares, extra, self._progress)
        ring = await opening.open()
        return ring, await self._ends_for(ring.residual)

    async def _known_records(self) -> list[NodeRecord]:
        """The records as they are now, or as they were when anybody last answered."""
        try:
            return await self.records()
        except SeedUnreachable:
            if not self._records:  # nobody ever did, so waiting won't mend it
                raise
            return self._records

    async def _look(self, again: bool) -> list[NodeRecord]:
        """Records for a fail-over: first those at hand, which cost no time."""
        if not again and self._records:
            return self._records
        transport, model_id = self.transport(), (await self.model_entry()).model_id
        seeds = {seed.node_id: seed for seed in (*known_nodes(self._records), *self.config.join)}
        try:
            async with asyncio.timeout(LOOK):
                nodes = list(seeds.values())
                _, found = await find_records(transport, nodes, self._book, model_id)
        except TimeoutError:
            return self._records
        self._records = found or self._records
        return self._records

    async def _ends_for(self, residual: Residual) -> Ends:
        model = await self._load()
        async with self._loading:
            if residual not in self._ends:
                self._ends[residual] = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._open_ends, model, residual
                )
            return self._ends[residual]

    def _open_ends(self, model: PromptModel, residual: Residual) -> Ends:
        ends = open_ends(self.config.engine, model.gguf, residual, self.config.threads)
        _ = ends.numerics  # measured here, off the event loop
        return ends


class AnswerStream:
    """Pieces of an answer as they come; ``answer`` once they have. Iterate it once."""

    def __init__(
        self, client: AsyncClient, request: Request, begun: Unfinished | None = None
    ) -> None:
        self.begun = time.monotonic()
        self._answer: Answer | None = None
        self._pieces = client.run(request, self, begun)

    def __aiter__(self) -> AsyncIterator[Piece]:
        """The pieces. Closing the iterator early closes the session."""
        return self._pieces

    def finish(self, answer: Answer) -> None:
        """Called once, by the client."""
        self._answer = answer

    @property
    def answer(self) -> Answer:
        """The whole answer. Raises ``RuntimeError`` before the last piece was taken."""
        if self._answer is None:
            raise RuntimeError("the stream hasn't ended yet")
        return self._answer
