"""Every family gives transformers' logits, and its rows keep their bits in any schedule."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from hearthring.protocol.errors import BadOption
from hearthring.protocol.tensors import F32, Residual
from hearthring.shards.ggml_engine import GgmlEngine
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.manifest import Manifest, build
from hearthring.shards.torch_ends import TorchEnds
from hearthring.shards.torch_engine import TorchEngine
from hearthring.shards.torch_fast import FastTorchEngine, choose_place
from tests.families import CASES, LAYERS, transformers_model, write_family_gguf
from tests.sessions import GENERATED, PROMPT, Session

ROWS = 150
_NUMBERS = ("llama3", "llama-linear", "phi3-short", "qwen2-yarn", "qwen3moe-unnormed")
BUILT_APART = [name for name in CASES if name not in _NUMBERS]
"""Families that differ in more than numbers."""
IDS = np.random.default_rng(0).integers(3, 300, ROWS)


@dataclass(frozen=True)
class Family:
    file: GgufFile
    model: Any

    @property
    def embedded(self) -> F32:
        """Row i is the embedding of token i - 1."""
        states = TorchEnds.open(self.file).embed(IDS.tolist())
        return np.concatenate([np.zeros_like(states[:1]), states])

    def engine(
        self, name: str = "torch", start: int = 0, end: int = LAYERS, threads: int = 1
    ) -> Any:
        if name == "ggml":
            return GgmlEngine(self.file, start, end, Residual.FP32, threads)
        return TorchEngine(
            self.file.dequantised, self.file.shape, start, end, Residual.FP32, threads
        )


pytestmark = pytest.mark.usefixtures("torch_threads")


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("families")

    @cache
    def make(name: str, quant: str = "F32") -> Family:
        case = CASES[name]
        model = transformers_model(case)
        path = write_family_gguf(folder / f"{name} {quant}", case, model, quant)
        return Family(GgufFile(path), model)

    return make


ENGINES = [("torch", "F32"), ("ggml", "Q8_0")]


def reference(engine: Any, states: F32, prompt: int = 110) -> dict[int, bytes]:
    """The prompt in one step, then one generated row at a time."""
    session = Session(engine, states)
    session.chain(1, prompt)
    session.chain(prompt, ROWS + 1, GENERATED, 1)
    return session.out


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(families: Any, name: str) -> None:
    family = families(name)
    with torch.inference_mode():
        wanted = family.model(torch.from_numpy(IDS)[None]).logits[0].numpy()
    ends, engine = TorchEnds.open(family.file), family.engine()
    for prompt in (0, 100, ROWS):
        session = Session(engine, family.embedded)
        session.chain(1, prompt + 1)
        session.chain(prompt + 1, ROWS + 1, GENERATED, 7)
        got = ends.logits(ends.norm(session.array(1, ROWS + 1)))
        assert np.abs(got - wanted).max() / np.abs(wanted).max() < 1e-5


def test_a_context_in_use_decides_between_short_and_long_rotations(families: Any) -> None:
    """transformers turns short sequences by the short factors: up to 64 tokens here."""
    family = families("phi3-long")
    short = Family(GgufFile(family.file.path, 64), family.model)
    assert (short.file.shape.context, family.file.shape.context > 64) == (64, True)
    with torch.inference_mode():
        wanted = family.model(torch.from_numpy(IDS[:60])[None]).logits[0].numpy()
    errors = []
    for one in (short, family):
        ends, session = TorchEnds.open(one.file), Session(one.engine(), one.embedded)
        session.chain(1, 61)
        got = ends.logits(ends.norm(session.array(1, 61)))
        errors.append(np.abs(got - wanted).max() / np.abs(wanted).max())
    assert errors[0] < 1e-5
    assert errors[1] > 1e-3
    for wrong in (0, -1, family.file.shape.context + 1):
        with pytest.raises(BadOption, match="context"):
            GgufFile(family.file.path, wrong)


@pytest.mark.parametrize("name", CASES)
def test_the_fast_engine_agrees(families: Any, name: str) -> None:
    family = families(name)
    file, states = family.file, family.embedded
    fast = FastTorchEngine(file.dequantised, file.shape, 0, LAYERS, place=choose_place("cpu"))
    session = Session(fast, states)
    session.chain(1, 100)
    session.chain(100, ROWS + 1, GENERATED, 7)
    wanted = Session(family.engine(), states)
    wanted.chain(1, ROWS + 1)
    both = session.array(1, ROWS + 1), wanted.array(1, ROWS + 1)
    assert np.abs(both[0] - both[1]).max() / np.abs(both[1]).max() < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_ggml_agrees_within_half_precision(families: Any, name: str) -> None:
    """Keys and values are fp16, and ggml's GELU is a table of fp16."""
    family = families(name)
    states = family.embedded
    wanted = Session(family.engine(), states)
    wanted.chain(1, ROWS + 1)
    session = Session(family.engine("ggml"), states)
    session.chain(1, 100)
    session.chain(100, ROWS + 1, GENERATED, 7)
    right, added = wanted.array(1, ROWS + 1), wanted.array(1, ROWS + 1) - states[1:]
    off = np.linalg.norm(session.array(1, ROWS + 1) - right, axis=1)
    errors = off / np.linalg.norm(added, axis=1)
    assert np.median(errors) < 0.002
    assert (errors < 0.01).mean() > (0.9 if family.file.shape.experts else 0.999)


@pytest.mark.parametrize("name", BUILT_APART)
@pytest.mark.parametrize(("engine", "quant"), ENGINES)
def test_no_schedule_changes_a_bit(families: Any, name: str, engine: str, quant: str) -> None:
    """Chunks, threads and windows against one row after the other."""
    family = families(name, quant)
    states = family.embedded
    wanted = reference(family.engine(engine), states)
    for step, threads in ((64, 1), (29, 2)):
        session = Session(family.engine(engine, threads=threads), states)
        session.chain(1, 110, PROMPT, step)
        session.chain(110, ROWS + 1, GENERATED, 3)
        assert session.out == wanted
    first, between = Session(family.engine(engine, 0, 1), states), np.zeros_like(states)
    first.chain(1, 110)
    first.chain(110, ROWS + 1, GENERATED)
    between[1:] = first.array(1, ROWS + 1)
    assert reference(family.engine(engine, 1, LAYERS), between) == wanted


@pytest.mark.parametrize("name", BUILT_APART)
@pytest.mark.parametrize(("engine", "quant"), ENGINES)
def test_a_tree_beside_another_session_equals_its_branches(
    families: Any, name: str, engine: str, quant: str
) -> None:
    family = families(name, quant)
    run, states = family.engine(engine), family.embedded
    parents = [99, 100, 101, 99, 103, 104, 101]  # of rows 100 to 106
    tree, other = Session(run, states), Session(run, states[::-1].copy())
    tree.chain(1, 100)
    rows = [(100 + i, parent, GENERATED) for i, parent in enumerate(parents)]
    noise = [(i, i - 1, PROMPT) for i in range(1, 40)]
    segments = (other.place(noise), tree.place(rows))
    both = np.concatenate([other.states[1:40], states[100:107]])
    out, _ = run.forward(segments, both)
    tree.keep(rows, out[len(noise) :])
    for leaf in (102, 105, 106):
        path = [leaf]
        while path[0] > 99:
            path.insert(0, parents[path[0] - 100])
        alone = Session(run, states)
        alone.chain(1, 100)
        for parent, row in pairwise(path):
            alone.run((row, parent, GENERATED))
            assert alone.out[row] == tree.out[row]


@pytest.mark.parametrize("name", ["gemma3", "phi3-long", "mixtral"])
def test_manifests_hold_every_number(families: Any, name: str) -> None:
    manifest = build(families(name).file)
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.shape == families(name).file.shape
