"""The client for programs without an event loop: ``AsyncClient`` on a loop in a thread."""

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, Self, TypeVar, Unpack

from hearthring.client.answer import Answer, Piece
from hearthring.client.answering import AnswerStream
from hearthring.client.api import AsyncClient
from hearthring.client.config import EXACT
from hearthring.client.depths import WHOLE
from hearthring.client.drafts import AUTO, Make
from hearthring.client.paces import MakePace
from hearthring.client.replacement import PATIENCE
from hearthring.client.request import Messages, Options, Progress
from hearthring.protocol.errors import HearthringError
from hearthring.protocol.invitation import Invitation
from hearthring.protocol.loops import new_event_loop
from hearthring.protocol.records import NodeRecord
from hearthring.protocol.tensors import F32
from hearthring.shards.manifest import quiet
from hearthring.shards.store import ModelEntry
from hearthring.verify.proof import Proof
from hearthring.verify.verdict import Verdict

T = TypeVar("T")


class Client:
    """A client of one swarm and one model; see ``AsyncClient``, whose calls these are.

    Interrupting a call (Ctrl-C) cancels it, and closes its session at every node; a second Ctrl-C
    doesn't wait for that.
    """

    def __init__(
        self,
        join: str | Sequence[str | Invitation] = (),
        model: str | None = None,
        *,
        threads: int | None = None,
        progress: Progress = quiet,
        sharing: str = "own",
        draft: str | Make = AUTO,
        pace: str | MakePace = "auto",
        patience: float = PATIENCE,
        allow_class_change: bool = False,
        engine: str = "auto",
        remember: bool = False,
        wire: str = EXACT,
    ) -> None:
        self._loop = new_event_loop()
        self._closed = False

        async def make() -> AsyncClient:
            return AsyncClient(
                join,
                model,
                threads=threads,
                progress=progress,
                sharing=sharing,
                patience=patience,
                allow_class_change=allow_class_change,
                engine=engine,
                draft=draft,
                pace=pace,
                remember=remember,
                wire=wire,
            )

        self._thread = threading.Thread(
            target=self._loop.run_forever, name="hearthring", daemon=True
        )
        self._thread.start()
        try:
            self._client = self._run(make())
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the swarm."""
        self.close()

    def close(self) -> None:
        """Leave the swarm. Idempotent."""
        if not self._closed:
            try:
                self._run(self._client.close())
            finally:
                self._stop()

    def generate(self, prompt: str | None = None, **options: Unpack[Options]) -> Answer:
        """The whole answer to a prompt."""
        return self._run(self._client.generate(prompt, **options))

    def resume(self, error: HearthringError) -> Answer:
        """The whole answer to a request that failed with this error, from where it was."""
        return self._run(self._client.resume(error))

    def resume_stream(self, error: HearthringError) -> "SyncAnswerStream":
        """As ``resume``, piece by piece: those that weren't there before the error."""
        return SyncAnswerStream(self._client.resume_stream(error), self._run)

    def chat(self, messages: Messages, **options: Any) -> Answer:
        """The assistant's next turn."""
        return self._run(self._client.chat(messages, **options))

    def stream(self, prompt: str | None = None, **options: Unpack[Options]) -> "SyncAnswerStream":
        """The answer piece by piece; its ``answer`` is there at the end."""
        return SyncAnswerStream(self._client.stream(prompt, **options), self._run)

    def hidden_states(self, prompt: str | Sequence[int], layers: Sequence[int]) -> dict[int, F32]:
        """The residual stream of a prompt at layer boundaries."""
        return self._run(self._client.hidden_states(prompt, layers))

    def records(self) -> list[NodeRecord]:
        """The live, signed records of this client's model."""
        return self._run(self._client.records())

    def model_entry(self) -> ModelEntry:
        """This client's model in the cache."""
        return self._run(self._client.model_entry())

    def audit(
        self,
        proof: Proof | str | os.PathLike[str],
        verifiers: int | None = None,
        depth: str = WHOLE,
    ) -> Verdict:
        """Replay a proof, or that in a file, with this machine's own weights, or ask independent
        verifiers, or with ``depth="cells"`` check drawn cells only."""
        return self._run(self._client.audit(proof, verifiers, depth))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._closed:
            work.close()
            raise RuntimeError("the client is closed")
        tasks, ended = list[asyncio.Task[T]](), threading.Event()

        def begin() -> None:
            tasks.append(task := self._loop.create_task(work))
            task.add_done_callback(lambda _: ended.set())

        def give_up() -> None:
            if tasks:
                tasks[0].cancel()
            else:
                work.close()
                ended.set()

        try:
            self._loop.call_soon_threadsafe(begin)
            _wait(ended)
        except BaseException:
            # Whoever goes on, to close the client say, finds nothing of it at work.
            self._loop.call_soon_threadsafe(give_up)
            _wait(ended)
            if tasks and not tasks[0].cancelled():
                tasks[0].exception()
            raise
        return tasks[0].result()

    def _stop(self) -> None:
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncAnswerStream:
    """Pieces of an answer as they come; iterate it once, ``close`` it to stop early."""

    def __init__(self, stream: AnswerStream, run: Any) -> None:
        self._stream, self._run, self._pieces = stream, run, aiter(stream)

    def __iter__(self) -> Iterator[Piece]:
        """The pieces."""
        try:
            while (piece := self._run(_next(self._pieces))) is not None:
                yield piece
        finally:
            self.close()

    def close(self) -> None:
        """End the session at every node. Idempotent."""
        self._run(_close(self._pieces))

    @property
    def answer(self) -> Answer:
        """The whole answer, once the last piece was taken."""
        return self._stream.answer


def _wait(event: threading.Event) -> None:
    """A signal that comes just before a wait begins is noticed only when that ends: within 1 s."""
    while not event.wait(1.0):
        pass


async def _next(pieces: Any) -> Piece | None:
    return await anext(pieces, None)


async def _close(pieces: Any) -> None:
    await pieces.aclose()
