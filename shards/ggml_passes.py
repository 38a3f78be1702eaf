"""In which passes over the weights the rows of a batch are run. Rows of one kind go together."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from hearthring.shards.engine import EngineRow, Kind, Segment
from hearthring.shards.ggml_kv import GgmlKv, ggml_kv

CHUNK = {Kind.PROMPT: 256, Kind.GENERATED: 128}
"""Rows in one pass: enough to pay for reading the weights, few enough to stay in cache."""


@dataclass(slots=True)
class Run:
    """Rows of one kind of one session, in order, from index ``at`` of the batch on.

    Prompt rows are a chain and each lies in the slot of its position.
    """

    cache: GgmlKv
    rows: list[EngineRow]
    at: int
    home: "Run | None" = None
    """Where the rows belong if this is a run in a straight copy of their path."""

    @property
    def kind(self) -> Kind:
        """The kind of all its rows."""
        return self.rows[0].kind

    def done(self) -> None:
        """To be called when the rows were run: takes keys and values home."""
        if self.home is not None:
            here = [row.slot for row in self.rows]
            there = [row.slot for row in self.home.rows]
            self.home.cache.rows[..., there, :] = self.cache.rows[..., here, :]


def only_run(segments: tuple[Segment, ...]) -> Run | None:
    """The batch as one run, if it is no more: generated rows of one session, as a token is."""
    if len(segments) != 1:
        return None
    rows = list(segments[0].rows)
    if not 0 < len(rows) <= CHUNK[Kind.GENERATED] or any(row.kind is Kind.PROMPT for row in rows):
        return None
    return Run(ggml_kv(segments[0].cache), rows, 0)


def passes(segments: tuple[Segment, ...]) -> Iterator[list[Run]]:
    """Lists of runs of one kind, at most ``CHUNK`` rows each; ancestors come in earlier passes or
    earlier in the same run. A pass must be done before the next is asked for."""
    waiting: list[list[Run]] = []
    at = 0
    for segment in segments:
        waiting.append(_runs(segment, at))
        at += len(segment.rows)
    while any(waiting):
        heads = [runs.pop(0) for runs in waiting if runs]
        for kind in (Kind.PROMPT, Kind.GENERATED):
            yield from _chunks([_straightened(run) for run in heads if run.kind is kind])


def _runs(segment: Segment, at: int) -> list[Run]:
    runs: list[Run] = []
    for index, row in enumerate(segment.rows, at):
        if runs and _belongs(runs[-1].rows[-1], row):
            runs[-1].rows.append(row)
        else:
            runs.append(Run(ggml_kv(segment.cache), [row], index))
    return runs


def _belongs(last: EngineRow, row: EngineRow) -> bool:
    if row.kind is not last.kind:
        return False
    if row.kind is Kind.GENERATED:
        return True
    return row.position == last.position + 1 and int(row.path[-2]) == last.slot


def _straightened(run: Run) -> Run:
    """The run itself, or a prompt's run in a copy of the cache where slots are positions."""
    last = run.rows[-1]
    # Slots grow along a path, so both ends decide.
    if run.kind is Kind.GENERATED or (last.path[0] == 0 and last.slot == last.position):
        return run
    cache = run.cache.straight(last.path, run.rows[0].position)
    path = np.arange(last.position + 1, dtype=np.int64)
    rows = [replace(row, slot=row.position, path=path[: row.position + 1]) for row in run.rows]
    return Run(cache, rows, run.at, run)


def _chunks(runs: list[Run]) -> Iterator[list[Run]]:
    chunk: list[Run] = []
    for run in runs:
        at = 0
        while at < len(run.rows):
            room = CHUNK[run.kind] - sum(len(taken.rows) for taken in chunk)
            rows = run.rows[at : at + room]
            home = run.home and Run(run.home.cache, run.home.rows[at : at + room], run.at + at)
            chunk.append(Run(run.cache, rows, run.at + at, home))
            at += len(rows)
            if len(rows) == room:
                yield chunk
                chunk = []
    if chunk:
        yield chunk
