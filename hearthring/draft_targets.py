"""Who writes the texts that a draft learns from: this machine's own engine, or a swarm."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from hearthring.client.api import AsyncClient
from hearthring.client.collecting import LocalWriter, Question, SwarmWriter
from hearthring.client.corpus import Sample
from hearthring.client.request import PromptModel
from hearthring.protocol.errors import BadOption
from hearthring.protocol.loops import new_event_loop
from hearthring.shards.draft_file import copied_layers
from hearthring.shards.ends import open_ends
from hearthring.shards.engines import EngineOptions, load_engine
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.manifest import Progress
from hearthring.shards.parts import ENDS, window_parts
from hearthring.shards.store import ModelStore

Write = Callable[[Sequence[Question]], list[Sample]]


@dataclass(slots=True)
class Target:
    """The model that a draft is trained for: its file, as far as it is here, and who writes."""

    model: PromptModel
    gguf: GgufFile
    write: Write
    stack: ExitStack = field(default_factory=ExitStack)


def local_target(name: str, threads: int, progress: Progress) -> Target:
    """A model that is here, written with this machine's engine. Raises ``BadOption``."""
    entry = ModelStore().find(name, progress)
    if not entry.whole:
        raise BadOption(
            f"only parts of {entry.name} are here", field="model", mend="give --join to ask a swarm"
        )
    gguf = entry.open()
    window, residual = (0, gguf.shape.layers), entry.manifest.residual
    options = EngineOptions(exact=False, prompt="low")
    engine = load_engine("auto", gguf, window, residual, threads, options=options)
    model = PromptModel(entry, gguf)
    writer = LocalWriter(model, engine, open_ends("auto", gguf, residual, threads))
    return Target(model, gguf, writer.write)


def swarm_target(
    name: str | None, join: list[str], layers: int, threads: int, progress: Progress
) -> Target:
    """A model of a swarm, which writes. Its ends and the layers to begin with are fetched."""
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner(loop_factory=new_event_loop))

        async def make() -> tuple[AsyncClient, PromptModel, GgufFile]:
            client = AsyncClient(join, name, threads=threads, progress=progress)
            stack.callback(lambda: runner.run(client.close()))
            model = await client.weights.model()
            first = copied_layers(model.shape, layers)
            parts = [part for at in first for part in window_parts(at, at + 1)]
            return client, model, await client.swarm.obtain((*ENDS, *parts))

        client, model, gguf = runner.run(make())
        writer = SwarmWriter(client)
        return Target(model, gguf, lambda asked: runner.run(writer.write(asked)), stack.pop_all())
