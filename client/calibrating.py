"""Measuring how far apart honest engines are on a model, boundary by boundary.

The texts go through every engine and kernel policy that this machine has, a block of layers at a
time, so that only a block of each is in memory. Compared are, for each honest pair of a route's
class and an auditor's: the digests of the route with the auditor's own replay from the first layer;
the auditor's replay of a stage's recorded input, in all channels; cells of every layer; and the
scores of tokens.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hearthring.client.calibrating_cells import cell_errors, run_layers
from hearthring.client.texts import Text, write_texts
from hearthring.protocol.errors import (
    BadOption,
    EngineUnavailable,
    HearthringError,
    ResidualOverflow,
)
from hearthring.protocol.tensors import F32, Residual, bf16_bits
from hearthring.shards.cell_runner import EngineCells
from hearthring.shards.ends import Ends, open_ends
from hearthring.shards.engine import Engine
from hearthring.shards.engines import EngineOptions, load_engine
from hearthring.shards.gguf_file import GgufFile
from hearthring.verify import calibrating
from hearthring.verify.digest import compare_all, digests
from hearthring.verify.rowhash import CHUNK
from hearthring.verify.stage_audit import deviation
from hearthring.verify.tolerance import Calibration, Tolerance, sort_of, widest

Progress = Callable[[str, int, int], None]
Say = Callable[[str, str], None]

VARIANTS = {
    "torch": ("torch", EngineOptions()),
    "low": ("ggml", EngineOptions(prompt="low")),
    "fast": ("ggml", EngineOptions(prompt="fast", prompt_memory=None)),
    "low, kv q8_0": ("ggml", EngineOptions(prompt="low", kv="q8_0")),
}
"""Engines and policies that nodes may run. Threads, batches and trees change no bits in a class."""
AUDITORS = ("torch", "low")
BLOCKS, WINDOW = 6, 2
"""Blocks that layers are run in, and how many make the stage that is replayed by itself."""
SCORED = 8


@dataclass(slots=True)
class _Course:
    """One text's way through one pair of classes, and what was found so far."""

    exp: list[float] = field(default_factory=list)
    mantissa: list[float] = field(default_factory=list)
    chunk_exp: float = 0.0
    stage: list[tuple[float, float]] = field(default_factory=list)
    whole: list[tuple[float, float]] = field(default_factory=list)
    margin: float = 0.0
    cells: tuple[float, float] = (0.0, 0.0)
    replay: F32 | None = None

    def digested(self, theirs: list[bytes], mine: F32) -> None:
        """Digests of one boundary."""
        found = compare_all(theirs, _chunks(mine))
        self.exp.append(found.mean.exp_mismatches)
        self.mantissa.append(min(found.mean.mantissa_mean, 127.0))
        self.chunk_exp = max(self.chunk_exp, *(c.exp_mismatches for c in found.chunks))

    def checked(self, cells: tuple[float, float]) -> None:
        """Cells: errors of what layers added, and of stored K and V."""
        self.cells = max(self.cells[0], cells[0]), max(self.cells[1], cells[1])

    def deviated(self, layers: int, found: tuple[float, float]) -> None:
        """A replay of so many layers from recorded input."""
        while len(self.stage) < layers:
            self.stage.append((0.0, 0.0))
        mean, chunk = self.stage[layers - 1]
        self.stage[layers - 1] = max(mean, found[0]), max(chunk, found[1])

    def figures(self) -> Tolerance:
        """What this text takes of each threshold. Longer stages than were replayed alone have the
        figures of a replay from the first layer."""
        stage = self.stage + self.whole[len(self.stage) :]
        grown = np.maximum.accumulate(np.array(stage), axis=0)
        return Tolerance(
            tuple(self.exp),
            tuple(self.mantissa),
            self.chunk_exp,
            tuple(grown[:, 0].tolist()),
            tuple(grown[:, 1].tolist()),
            self.margin,
            *self.cells,
        )


def calibrate(
    gguf: GgufFile,
    model_id: str,
    count: int,
    threads: int,
    residuals: Sequence[Residual] = tuple(Residual),
    seed: int = 0,
    progress: Progress = lambda *_: None,
    say: Say = lambda *_: None,
) -> Calibration:
    """Measure ``count`` texts and set thresholds; see ``verify/calibrating.py`` for their bound.

    A residual type that the model overflows, and engines that can't run here, are left out, which
    ``say`` is told. Raises ``BadOption`` for too few texts, ``EngineUnavailable`` where there are
    no two classes to compare.
    """
    residual = Residual.FP32
    engine = load_engine("auto", gguf, (0, gguf.shape.layers), residual, threads)
    progress("writing texts", 0, 1)
    texts = write_texts(gguf, engine, open_ends("auto", gguf, residual, threads), count, seed)
    del engine
    sorts, held_out, exceeded = {}, 0, 0
    for kind in residuals:
        try:
            measured = measure(gguf, texts, kind, threads, progress)
        except ResidualOverflow:
            say(kind.value, "left out: the model's residual doesn't fit")
            continue
        for sort, figures in measured.items():
            fitted = calibrating.fit(figures)
            sorts[sort] = fitted.tolerance
            held_out, exceeded = held_out + len(fitted.reach), exceeded + fitted.exceeded
            say(
                sort,
                f"held out: {fitted.exceeded} of {len(fitted.reach)} texts beyond a threshold, the "
                f"farthest at {max(fitted.reach):.0%} of one",
            )
    return Calibration(model_id, sorts, count, held_out, exceeded)


def measure(
    gguf: GgufFile, texts: Sequence[Text], residual: Residual, threads: int, progress: Progress
) -> dict[str, list[Tolerance]]:
    """Figures per text, by sort of route: the largest over auditors. Raises as ``calibrate``."""
    layers = gguf.shape.layers
    size = -(-layers // BLOCKS)
    ends = open_ends("torch", gguf, residual, threads)
    values = gguf.shape.kv_heads * gguf.shape.head_width
    courses: dict[tuple[str, str], list[_Course]] = {}
    names: dict[str, str] = {}
    states: dict[str, list[F32]] = {}
    for number, start in enumerate(range(0, layers, size)):
        block = (start, min(start + size, layers))
        engines = _engines(gguf, block, residual, threads, names or VARIANTS)
        if number == 0:
            names = {name: engine.numerics.name for name, engine in engines.items()}
            pairs = [(r, a) for r in names for a in AUDITORS if r != a and a in names]
            if not pairs:
                raise EngineUnavailable("there are no two classes here to compare", field="engine")
            courses = {pair: [_Course() for _ in texts] for pair in pairs}
            states = {name: [ends.embed(text.ids) for text in texts] for name in names}
        begun = start if number % WINDOW == 0 else start - size
        for i, text in enumerate(texts):
            progress(f"{residual.value} residuals", number * len(texts) + i, BLOCKS * len(texts))
            before = {name: states[name][i] for name in names}
            passes = {name: run_layers(engines[name], text, before[name]) for name in names}
            signed = {name: _digests(passes[name].after) for name in names}
            for (route, auditor), course in courses.items():
                found = passes[route].after
                _compare(course[i], found, signed[route], passes[auditor].after)
                if not _replays_stages(route, auditor):
                    continue
                replay = course[i].replay if number % WINDOW else None
                input_rows = before[route] if replay is None else replay
                again = run_layers(engines[auditor], text, input_rows).after
                for boundary, mine in again.items():
                    off = deviation(mine, found[boundary])
                    course[i].deviated(boundary - begun, off)
                course[i].replay = again[block[1]]
                cells = EngineCells(engines[auditor], values)
                chance = i.to_bytes(32, "big")
                course[i].checked(cell_errors(cells, passes[route], text, residual, chance))
            for name in names:
                states[name][i] = passes[name].after[block[1]]
    _score(gguf, texts, residual, threads, ends, states, courses)
    sorts: dict[str, list[Tolerance]] = {}
    for route, name in names.items():
        pairs_of = [found for (r, _), found in courses.items() if r == route]
        sorts[sort_of(name)] = [
            widest([course[i].figures() for course in pairs_of]) for i in range(len(texts))
        ]
    return sorts


def _replays_stages(route: str, auditor: str) -> bool:
    """An auditor of a recorded input takes the route's own engine, or torch."""
    return auditor == "torch" or route == "torch"


def _engines(
    gguf: GgufFile, block: tuple[int, int], residual: Residual, threads: int, wanted: Container[str]
) -> dict[str, Engine]:
    made = {}
    for name, (engine, options) in VARIANTS.items():
        if name not in wanted:
            continue
        try:
            made[name] = load_engine(engine, gguf, block, residual, threads, options=options)
        except (EngineUnavailable, BadOption):  # BadOption: heads too narrow for q8_0
            continue
    return made


def _compare(
    course: _Course, route: dict[int, F32], signed: dict[int, list[bytes]], auditor: dict[int, F32]
) -> None:
    for boundary, theirs in sorted(route.items()):
        course.digested(signed[boundary], auditor[boundary])
        course.whole.append(deviation(auditor[boundary], theirs))


def _digests(after: dict[int, F32]) -> dict[int, list[bytes]]:
    """Of every boundary, all made together."""
    chunks = {boundary: _chunks(states) for boundary, states in after.items()}
    made = iter(digests([one for some in chunks.values() for one in some]))
    return {boundary: [next(made) for _ in some] for boundary, some in chunks.items()}


def _score(
    gguf: GgufFile,
    texts: Sequence[Text],
    residual: Residual,
    threads: int,
    ends: Ends,
    states: dict[str, list[F32]],
    courses: dict[tuple[str, str], list[_Course]],
) -> None:
    """Digests of the final norm, and by how much another token leads in the auditor's logits."""
    try:
        quick: Ends = open_ends("auto", gguf, residual, threads)
    except HearthringError:
        quick = ends
    for (route, auditor), course in courses.items():
        for i in range(len(texts)):
            theirs, mine = ends.norm(states[route][i]), ends.norm(states[auditor][i])
            course[i].digested(digests(_chunks(theirs)), mine)
            some = slice(None, None, max(1, len(mine) // SCORED))
            chosen = quick.logits(theirs[some]).argmax(axis=1)
            scores = ends.logits(mine[some])
            leads = scores.max(axis=1) - scores[np.arange(len(chosen)), chosen]
            course[i].margin = float(leads.max())


def _chunks(states: F32) -> list[NDArray[np.uint16]]:
    return [bf16_bits(states[at : at + CHUNK]) for at in range(0, len(states), CHUNK)]
