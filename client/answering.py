"""The life of a request: prompt, route, session, tokens, proof, answer."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from hearthring.client.answer import Answer, Piece
from hearthring.client.audits import remember
from hearthring.client.classes import Classes, classes_of
from hearthring.client.draft import Setting
from hearthring.client.drafts import Make, needed_parts, open_speculation
from hearthring.client.figures import timings_of
from hearthring.client.generation import Generation
from hearthring.client.heads import Heads
from hearthring.client.lessons import Lesson, Lessons
from hearthring.client.measuring import learn
from hearthring.client.paces import MakePace
from hearthring.client.proving import prove
from hearthring.client.remembered import Remembered
from hearthring.client.request import PromptModel, Request, Unfinished
from hearthring.client.rollback import RolledBack
from hearthring.client.route import Stage
from hearthring.client.sessions import Sessions
from hearthring.client.situation import situation_of
from hearthring.client.speculation import Speculation
from hearthring.client.spot_checks import SpotChecks
from hearthring.client.standing import standing_by
from hearthring.client.swarm import Swarm
from hearthring.client.transcript import Transcript
from hearthring.client.weights import Weights
from hearthring.protocol.errors import BadMemory, Unavailable
from hearthring.protocol.messages import GENERATED, PROMPT
from hearthring.shards.parts import ENDS
from hearthring.verify.proof import Proof


class Answering:
    """Answers the requests of one client; several may run at once.

    ``draft`` guesses tokens to come, ``pace`` decides how far, and ``lessons`` are what earlier
    answers taught about that, if anything. Texts are kept in ``remembered``, if that is given.
    """

    def __init__(
        self,
        swarm: Swarm,
        weights: Weights,
        sessions: Sessions,
        heads: Heads,
        draft: str | Make,
        pace: str | MakePace,
        lessons: Lessons | None,
        remembered: Remembered | None = None,
    ) -> None:
        self._swarm, self._weights, self._sessions, self._heads = swarm, weights, sessions, heads
        self.draft, self.pace, self.lessons = draft, pace, lessons
        self._remembered, self._shared = remembered, dict[str, Any]()

    async def run(
        self, request: Request, stream: "AnswerStream", begun: Unfinished | None = None
    ) -> AsyncIterator[Piece]:
        """Pieces of the answer to a request; of one that has ``begun`` before only the rest.

        An ``Unavailable`` that ends it carries what there is so far.
        """
        model = await self._weights.model()
        ids = (
            list(begun.prompt_ids)
            if begun is not None
            else await asyncio.to_thread(model.ids, request)
        )
        made = list(begun.token_ids) if begun is not None else []
        classes = [begun.classes if begun is not None else ()]
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
        classes: list[Classes],
    ) -> AsyncGenerator[Piece]:
        """One session for a request, whose tokens so far are always in ``made``.

        ``classes`` ends with those of the route of the last of them, none before the first.
        """
        limit = min(request.max_tokens, model.room(ids))
        transcript = Transcript(model.tokenizer, request.stop)
        transcript.rewind(made)
        speculation = await self._speculation(request, model)
        ring, ends = await self._sessions.open(
            len(ids) + limit,
            extra=speculation.room,
            cells=request.proof or request.spot_check > 0,
            like=classes[-1],
        )
        if ring.max_rows < len(ids) + limit + speculation.room:
            speculation.stop("no stage has room for guesses")
        speculation.rule = request.rule
        speculation.lesson = self._lesson(request, model, ids, ring.route, speculation)
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
                whole=transcript.ended or len(made) == limit,
            )
            checks = self._spot_checks(request, generation)
            stack.push_async_callback(remember, self._swarm.reputation, checks.lessons)
            stack.push_async_callback(checks.close)
            if made and classes_of(ring.route) != classes[-1]:
                generation.class_changes.append(len(ids) + len(made))
            while True:
                writing = self._write(generation, transcript, limit, model)
                async with contextlib.aclosing(writing):
                    async for piece in writing:
                        made[:] = generation.token_ids[len(ids) :]
                        classes[:] = [classes_of(ring.route)]
                        checks.look()
                        if piece is not None:
                            yield piece
                timings = timings_of(generation)
                try:
                    await checks.finish(generation.flush)
                    proof = await self._prove(request, generation, model)
                    break
                except RolledBack as back:  # the last stage to be lost had computed something else
                    generation.take_back(back)
                    made[:] = generation.token_ids[len(ids) :]
                    yield transcript.rewind(made)
            if rest := transcript.finish():
                yield rest
            learn(self._swarm.peers, ring.route, [t.result for t in generation.trips if t.alone])
            if speculation.lesson is not None:
                await self._heads.run(speculation.lesson.end, speculation.tally)
        await self._remember(request, model, [*ids, *made])
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
        if transcript.ended and generation.rows:
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
        who = self._swarm.transport().identity
        return await prove(generation, model.entry.model_id, model.entry.name, who)

    def _spot_checks(self, request: Request, generation: Generation) -> SpotChecks:
        """Checks of a request's ring; own layers are fetched and loaded for the first."""
        ring = generation.ring

        def kinds() -> list[int]:
            prompt = generation.prompt_tokens
            return [PROMPT] * prompt + [GENERATED] * max(0, len(generation.rows) - prompt)

        shape = generation.ends.shape
        runner_of, rate = self._weights.cells, request.spot_check
        standing = standing_by(self._swarm.reputation)
        return SpotChecks(self._swarm.transport(), ring, shape, kinds, runner_of, rate, standing)

    async def _speculation(self, request: Request, model: PromptModel) -> Speculation:
        """The request's draft, made on the thread that it will run on."""
        wish = self.draft if request.draft is None else request.draft
        parts = needed_parts(wish, model)
        setting = Setting(
            model,
            request.sampling,
            self._swarm.config.threads,
            shared=self._shared,
            remembered=self._remembered,
            layers=await self._swarm.obtain((*ENDS, *parts)) if parts else None,
            rule=request.rule,
        )
        return await self._heads.run(open_speculation, wish, setting, self.pace, request.explain)

    async def _remember(self, request: Request, model: PromptModel, text: list[int]) -> None:
        """Keep a text to guess from. An answer doesn't fail by it."""
        if self._remembered is None:
            return
        entry = model.entry
        named = entry.manifest.tokenizer, entry.model_id, entry.name
        try:
            await asyncio.to_thread(self._remembered.add, *named, text)
        except BadMemory as error:
            if request.explain is not None:
                request.explain(str(error))

    def _lesson(
        self,
        request: Request,
        model: PromptModel,
        ids: Sequence[int],
        route: Sequence[Stage],
        drafted: Speculation,
    ) -> Lesson | None:
        """What earlier answers teach for this one; it is remembered in turn."""
        if self.lessons is None or drafted.draft is None:
            return None
        situation = situation_of(
            model.entry.model_id,
            request.sampling.temperature,
            request.wording,
            len(ids),
            route,
            self._swarm.peers.nearest() / 2,
        )
        return Lesson(self.lessons, drafted.name, situation, ids, request.explain)


class AnswerStream:
    """Pieces of an answer as they come; ``answer`` once they have. Iterate it once."""

    def __init__(
        self, answering: Answering, request: Request, begun: Unfinished | None = None
    ) -> None:
        self.begun = time.monotonic()
        self._answer: Answer | None = None
        self._pieces = answering.run(request, self, begun)

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
