"""What a client has of its model: tokenizer and ends, and for checks the layers of a stage."""

import asyncio
from collections.abc import Iterable
from concurrent.futures import Executor

from hearthring.client.cell_audit import load_cells
from hearthring.client.request import PromptModel
from hearthring.client.route import Stage
from hearthring.client.swarm import Swarm
from hearthring.protocol.tensors import Residual
from hearthring.shards.cell_runner import EngineCells
from hearthring.shards.ends import Ends, open_ends
from hearthring.shards.engines import warn_of_fallback
from hearthring.shards.parts import ENDS, window_parts

KEPT = 2
"""Times that all layers may be in memory for checks: rings have windows of their own."""


class Weights:
    """Each part is fetched and loaded once, when it is first needed; ends on their ``thread``."""

    def __init__(self, swarm: Swarm, thread: Executor) -> None:
        self._swarm, self._thread = swarm, thread
        self._loading, self._loading_cells = asyncio.Lock(), asyncio.Lock()
        self._model: PromptModel | None = None
        self._ends: dict[Residual, Ends] = {}
        self._cells: dict[tuple[int, int, str], EngineCells] = {}

    async def model(self) -> PromptModel:
        """Manifest, tokenizer and chat template."""
        async with self._loading:
            if self._model is None:
                entry = await self._swarm.model_entry()
                gguf = await self._swarm.obtain(ENDS)
                self._model = await asyncio.get_running_loop().run_in_executor(
                    self._thread, PromptModel, entry, gguf
                )
            return self._model

    async def ends(self, residual: Residual) -> Ends:
        """Embedding and head for rows of this type."""
        model = await self.model()
        async with self._loading:
            if residual not in self._ends:
                self._ends[residual] = await asyncio.get_running_loop().run_in_executor(
                    self._thread, self._open_ends, model, residual
                )
            return self._ends[residual]

    async def cells(self, stage: Stage) -> EngineCells:
        """A stage's layers, to check its cells with."""
        key = stage.start, stage.end, stage.fingerprint
        model = await self.model()
        async with self._loading_cells:
            if key in self._cells:
                self._cells[key] = self._cells.pop(key)  # the last to go
            else:
                window = stage.start, stage.end
                gguf = await self._swarm.obtain(window_parts(*window))
                residual, threads = Residual(stage.residual), self._swarm.config.threads
                self._cells[key] = await asyncio.to_thread(
                    load_cells, gguf, stage.numerics, residual, window, threads
                )
            while _layers(self._cells) > max(KEPT * model.shape.layers, _layers([key])):
                del self._cells[next(iter(self._cells))]
            return self._cells[key]

    def _open_ends(self, model: PromptModel, residual: Residual) -> Ends:
        config = self._swarm.config
        fallen: list[str] = []
        ends = open_ends(config.engine, model.gguf, residual, config.threads, fallen.append)
        numerics = ends.numerics  # measured here, off the event loop
        for text in fallen:
            warn_of_fallback(f"{text}; class {numerics.name}")
        return ends


def _layers(windows: Iterable[tuple[int, int, str]]) -> int:
    return sum(end - start for start, end, _ in windows)
