"""Replaying layers over a whole sequence of rows, through an engine of this machine."""

import contextlib
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from hearthring.protocol.errors import EngineUnavailable
from hearthring.protocol.messages import PROMPT
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.engine import Engine, EngineRow, Kind, Numerics, Segment
from hearthring.shards.engines import EngineOptions, load_engine, options_of
from hearthring.shards.gguf_file import GgufFile

BATCH = 256
DEFAULT = EngineOptions()
Breathe = Callable[[], None]


class WindowReplayer:
    """Runs windows of a model file. Only the window at work is in memory.

    ``engine`` is the name of the engine to replay with, ``options`` how; ``first`` is a layer that
    is here, by which the class is measured. ``breathe`` is called between batches: it may wait, or
    raise to end the replay. Raises ``EngineUnavailable``.
    """

    def __init__(
        self,
        gguf: GgufFile,
        residual: Residual,
        threads: int,
        engine: str = "torch",
        options: EngineOptions = DEFAULT,
        *,
        first: int = 0,
        breathe: Breathe = lambda: None,
    ) -> None:
        self._gguf, self._residual, self._threads = gguf, residual, threads
        self._name, self._options, self._first = engine, options, first
        self._breathe = breathe

    @cached_property
    def _class(self) -> Numerics:
        return self._engine(self._first, self._first + 1).numerics

    @property
    def numerics(self) -> str:
        """Class of the engine, by name."""
        return self._class.name

    @cached_property
    def fingerprint(self) -> str:
        """The same, as it counts."""
        return self._class.fingerprint

    def run(self, start: int, end: int, states: F32, kinds: Sequence[int]) -> F32:
        """Replay layers ``[start, end)`` over rows of these kinds; ``states`` is [rows, width]."""
        engine = self._engine(start, end)
        cache = engine.new_cache(len(states))
        slots = np.arange(len(states), dtype=np.int64)
        rows = tuple(
            EngineRow(Kind.PROMPT if kind == PROMPT else Kind.GENERATED, p, p, slots[: p + 1])
            for p, kind in enumerate(kinds)
        )
        done = []
        for at in range(0, len(rows), BATCH):
            self._breathe()
            batch = (Segment(cache, rows[at : at + BATCH]),)
            done.append(engine.forward(batch, states[at : at + BATCH])[0])
        return np.concatenate(done)

    def _engine(self, start: int, end: int) -> Engine:
        self._breathe()
        return load_engine(
            self._name,
            self._gguf,
            (start, end),
            self._residual,
            self._threads,
            options=self._options,
        )


def replayer_like(
    numerics: str,
    gguf: GgufFile,
    residual: Residual,
    threads: int,
    first: int,
    breathe: Breathe,
) -> WindowReplayer:
    """With the engine of this class's name where this machine has it, so that bits can be
    compared; else with torch."""
    if numerics.startswith("ggml-"):
        with contextlib.suppress(EngineUnavailable):
            found = WindowReplayer(
                gguf,
                residual,
                threads,
                "ggml",
                options_of(numerics),
                first=first,
                breathe=breathe,
            )
            _ = found.fingerprint
            return found
    return WindowReplayer(gguf, residual, threads, first=first, breathe=breathe)
