"""A draft that learns from its target: texts, steps, interruptions, the file, and what it saves."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hearthring.cli import main
from hearthring.client.collecting import LocalWriter, Question, SwarmWriter, questions
from hearthring.client.corpus import TOP, Corpus, Sample, expected
from hearthring.client.distilled import open_distilled
from hearthring.client.distilling import Training
from hearthring.client.draft import Setting
from hearthring.client.held_out import held_out_rates, replay
from hearthring.client.pace import Fixed
from hearthring.client.prompts import published, read_prompts
from hearthring.client.request import PromptModel
from hearthring.client.sampler import Sampling
from hearthring.draft_targets import Target
from hearthring.draft_training import Spent, Trainer
from hearthring.protocol.errors import BadDraft, BadOption, EngineUnavailable, NoRoute
from hearthring.protocol.tensors import Residual
from hearthring.shards.draft_file import draft_path, write_draft
from hearthring.shards.ends import open_ends
from hearthring.shards.engines import load_engine
from hearthring.shards.store import ModelEntry, ModelStore
from hearthring.shards.student import Student
from tests.drafts import Knowing
from tests.memory_ring import memory_swarm
from tests.schedules import CUTS

PROMPTS = [(f"the sky is blue {number}", number % 4 == 0) for number in range(32)]
TOKENS = 12


def target_of(entry: ModelEntry) -> Target:
    """A tiny model on the reference engine, as the ring's tests have it."""
    gguf = entry.open()
    engine = load_engine("torch", gguf, (0, gguf.shape.layers), Residual.FP32, 1)
    model = PromptModel(entry, gguf)
    writer = LocalWriter(model, engine, open_ends("torch", gguf, Residual.FP32, 1))
    return Target(model, gguf, lambda asked: writer.write(asked, TOKENS))


def samples_of(entry: ModelEntry, count: int = 16) -> list[Sample]:
    target = target_of(entry)
    return target.write(list(questions(PROMPTS[:count], target.model)))


def test_texts_are_those_of_a_ring_and_so_is_what_was_expected(tiny: ModelEntry) -> None:
    model = PromptModel(tiny, tiny.open())
    ids = [one.ids for one in questions(PROMPTS[:2], model)]
    ways = Sampling(), Sampling(temperature=1.0, seed=5)
    asked = [Question(one, how, False, 0) for one, how in zip(ids, ways, strict=True)]
    here = target_of(tiny).write(asked)

    async def there() -> list[Sample]:
        async with memory_swarm(tiny, CUTS) as swarm:
            return await SwarmWriter(swarm.client()).write(asked, TOKENS)

    for one, other in zip(here, asyncio.run(there()), strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert len(one.top) == len(one.ids) - one.prompt > 0
        np.testing.assert_allclose(
            one.chances.astype(float), other.chances.astype(float), atol=2e-3
        )
        if not one.temperature:
            assert one.top[:, 0].tolist() == one.ids[one.prompt :].tolist()


def test_expectations_are_the_softmax_of_the_likeliest() -> None:
    logits = np.random.default_rng(0).standard_normal((3, 50)).astype(np.float32) * 3
    top, chances = expected(logits)
    whole = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert (
        np.take_along_axis(whole, top.astype(int), 1).min(1) >= np.sort(whole, 1)[:, -TOP]
    ).all()
    np.testing.assert_allclose(np.take_along_axis(whole, top.astype(int), 1), chances, atol=1e-3)
    few, of_few = expected(logits[:, :5])
    assert few.shape == of_few.shape == (3, TOP)
    np.testing.assert_allclose(of_few.astype(float).sum(1), 1, atol=2e-3)


def test_a_student_with_all_layers_is_its_target(tiny: ModelEntry, tmp_path: Path) -> None:
    samples = samples_of(tiny)
    whole = Training(Student(tiny.open(), 4), samples, tmp_path)
    one = Training(Student(tiny.open(), 1), samples, tmp_path)
    assert whole.held_out() < 2e-3
    assert one.held_out() > 0.1


def test_an_interruption_changes_nothing_and_the_loss_falls(
    tiny: ModelEntry, tmp_path: Path
) -> None:
    samples = samples_of(tiny, 32)
    folders = [tmp_path / name for name in ("whole", "parts")]
    for folder in folders:
        folder.mkdir()
    whole = Training(Student(tiny.open(), 1), samples, folders[0])
    before = whole.held_out()
    whole.run(60)
    assert whole.held_out() < 0.8 * before

    def stop(step: int, loss: float) -> None:
        if step == 17:
            raise KeyboardInterrupt

    parts = Training(Student(tiny.open(), 1), samples, folders[1])
    with pytest.raises(KeyboardInterrupt):
        parts.run(60, told=stop)
    again = Training(Student(tiny.open(), 1, seed=9), samples, folders[1])
    assert again.step == 17
    again.run(60)
    for name, value in again.student.learnt().items():
        assert (value == whole.student.learnt()[name]).all(), name


def test_a_student_leaves_torch_its_threads(
    tiny: ModelEntry, tmp_path: Path, torch_threads: None
) -> None:
    seen, samples = list[int](), samples_of(tiny)
    torch.set_num_threads(2)
    training = Training(Student(tiny.open(), 1), samples, tmp_path)
    assert torch.get_num_threads() == 2
    loss = Student.loss

    def watched(student: Student, *what: Any) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return loss(student, *what)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Student, "loss", watched)
        training.run(1)
        training.held_out()
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2


async def test_a_draft_that_is_its_target_is_always_right(tiny: ModelEntry) -> None:
    student, path = Student(tiny.open(), 4), draft_path(tiny.model_id)
    path.parent.mkdir(parents=True)
    write_draft(tiny.open(), tiny.model_id, tiny.name, student.shape, student.learnt(), path)
    model = PromptModel(tiny, tiny.open())
    rates = held_out_rates(
        lambda sampling: open_distilled(Setting(model, sampling)), samples_of(tiny, 4)
    )
    assert set(rates) == {0.0, 1.0}
    # Weights in 8 bits now and then choose something else.
    assert all(rate.hits > 0.7 * rate.guesses > 7 for rate in rates.values())
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        client.answering.pace = lambda: Fixed(4)
        plain = await client.generate("the sky", draft="none", max_tokens=24)
        answer = await client.generate("the sky", draft="distilled", max_tokens=24)
    assert answer.token_ids == plain.token_ids
    assert answer.guessing.draft == "distilled"
    assert answer.guessing.hits > 0.7 * answer.guessing.guesses > 7


@pytest.mark.parametrize("name", ["gemma3", "mixtral"])
def test_drafts_of_other_families(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """The draft is a Llama whatever its target is; it takes the target's ends as they are."""
    from tests.families import CASES, transformers_model, write_family_gguf

    monkeypatch.setenv("HEARTHRING_MODELS", str(tmp_path / "models"))
    model = transformers_model(CASES[name])
    entry = ModelStore().find(str(write_family_gguf(tmp_path / "target.gguf", CASES[name], model)))
    student, path = Student(entry.open(), 2), tmp_path / "draft.gguf"
    write_draft(entry.open(), entry.model_id, entry.name, student.shape, student.learnt(), path)
    draft = ModelStore().find(str(path)).open()
    ours, theirs = (open_ends("torch", gguf, Residual.FP32, 1) for gguf in (draft, entry.open()))
    np.testing.assert_allclose(ours.embed([5, 6]), theirs.embed([5, 6]), rtol=2e-3, atol=1e-3)
    states = np.random.default_rng(0).standard_normal((2, draft.shape.width)).astype(np.float32)
    assert ours.logits(states).argmax(1).tolist() == theirs.logits(states).argmax(1).tolist()


def test_a_training_goes_on_where_it_was(tiny: ModelEntry, tmp_path: Path) -> None:
    path, target, said = tmp_path / "draft.gguf", target_of(tiny), list[str]()

    def stop(label: str, done: int, total: int) -> None:
        said.append(label)
        if said.count("learning") == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(target, path, 0.01, 1, stop).run(PROMPTS, 1, batch=16, steps=6)
    assert not path.exists()
    quiet = Trainer(target, path, 0.01, 1, lambda label, done, total: said.append(label))
    trained = quiet.run(PROMPTS, 1, steps=40)
    assert (trained.steps, trained.texts, trained.held_texts) == (40, 12, 4)
    assert said.count("writing texts") == 1
    assert trained.loss < trained.loss_before
    assert set(trained.rates) == {"distilled", "suffix"}
    assert trained.as_json()["tokens_per_trip"]["distilled"]["0"] >= 1
    assert oct((tmp_path / "draft.training").stat().st_mode)[-3:] == "700"
    anew = Trainer(target, path, 0.01, 1, lambda *_: None).run(PROMPTS, 1, anew=True, steps=2)
    assert anew.steps == 2
    with pytest.raises(BadDraft, match="doesn't fit"):
        Trainer(target, path, 0.01, 1, lambda *_: None).run(PROMPTS, 2, steps=2)


def test_what_is_damaged_or_anothers_is_said_so(tiny: ModelEntry, tmp_path: Path) -> None:
    model = PromptModel(tiny, tiny.open())
    with pytest.raises(BadOption, match="draft train"):
        open_distilled(Setting(model, Sampling()))
    with pytest.raises(BadDraft, match="of no model"):
        open_distilled(Setting(model, Sampling(), argument=str(tiny.path)))
    corpus = Corpus(tmp_path)
    corpus.add(samples_of(tiny, 8))
    assert len(list(Corpus(tmp_path).read())) == 8
    path = next(tmp_path.glob("texts-*.npz"))
    for damage in (b"", path.read_bytes()[:-50], b"PK" + bytes(400)):
        path.write_bytes(damage)
        with pytest.raises(BadDraft, match="remove the folder"):
            list(corpus.read())


def test_prompts(tmp_path: Path) -> None:
    listed = list(published())
    assert len({text for text, _ in listed}) == len(listed) > 900
    assert 0.1 < sum(held for _, held in listed) / len(listed) < 0.2
    for held in (True, False):  # both ways of choosing, from the begin of the list on
        warm = [n.bit_count() % 2 for n, (_, kept) in enumerate(listed[:200]) if kept is held]
        assert 0.3 < sum(warm) / len(warm) < 0.7
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\ntwo\\nlines\n")
    assert read_prompts(file) == [("one", True), ("two\nlines", False)]
    file.write_bytes("\ufeffone\r\ntwo\u2028of them\x0c here".encode())
    assert read_prompts(file) == [("one", True), ("two\u2028of them\x0c here", False)]
    for wrong, says in ((b"one\n", "fewer"), (b"\xff\n" * 3, "UTF-8")):
        file.write_bytes(wrong)
        with pytest.raises(BadOption, match=says):
            read_prompts(file)
    with pytest.raises(BadOption, match="no such file"):
        read_prompts(tmp_path / "nonsuch")


def test_replaying_counts_as_a_ring_would() -> None:
    text = list(range(40))
    never = replay(Knowing(text, 1, hit=0.0, wide=0), text[:10], text[10:])
    assert (never.tokens, never.trips, never.per_trip) == (30, 30, 1.0)
    always = replay(Knowing(text, 1, hit=1.0, wide=0), text[:10], text[10:], 5)
    assert (always.trips, always.hits) == (5, 25)


def test_the_command_trains_and_tells(
    tiny: ModelEntry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = tmp_path / "prompts.txt"
    asked.write_text("\n".join(text for text, _ in PROMPTS))
    command = ["draft", "train", str(tiny.path), "--layers", "1", "--prompts", str(asked)]
    assert main([*command, "--minutes", "0.01"]) == 0
    said = capsys.readouterr().out
    assert "held-out texts, 4 guesses each" in said
    assert "T = 0     T = 1" in said
    assert str(draft_path(tiny.model_id)) in said
    assert main(["draft", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trained"][0]["model"] == tiny.model_id


ENDS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_waits_for_the_end_of_a_step(
    tiny: ModelEntry, tmp_path: Path, number: signal.Signals
) -> None:
    path, target, pressed = tmp_path / "draft.gguf", target_of(tiny), list[int]()

    def press(label: str, done: int, total: int) -> None:
        if label == "learning" and not pressed:
            pressed.append(1)
            signal.raise_signal(number)

    before = [signal.signal(each, _unasked) for each in ENDS]
    try:
        with pytest.raises(KeyboardInterrupt):
            Trainer(target, path, 0.01, 1, press).run(PROMPTS, 1, steps=50)
        assert [signal.getsignal(each) for each in ENDS] == [_unasked] * 2
    finally:
        for each, handler in zip(ENDS, before, strict=True):
            signal.signal(each, handler)
    folder = tmp_path / "draft.training"
    samples = list(Corpus(folder).read())
    assert Training(Student(tiny.open(), 1), samples, folder).step == 1
    spent = Spent.read(folder / "spent.json")
    assert spent.loss > 0
    assert spent.learning > 0


def test_a_signal_behind_the_last_step_is_not_swallowed(
    tiny: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Training._save

    def pressed(training: Training) -> None:
        save(training)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Training, "_save", pressed)
    path = tmp_path / "draft.gguf"
    with pytest.raises(KeyboardInterrupt):
        Trainer(target_of(tiny), path, 0.01, 1, lambda *_: None).run(PROMPTS, 1, steps=1)
    assert not path.exists()


def test_a_training_that_is_killed_keeps_the_loss_before_it(
    tiny: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[float]()

    def killed(*_: object) -> None:
        seen.append(Spent.read(tmp_path / "draft.training" / "spent.json").loss)
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "run", killed)
    path = tmp_path / "draft.gguf"
    with pytest.raises(KeyboardInterrupt):
        Trainer(target_of(tiny), path, 0.01, 1, lambda *_: None).run(PROMPTS, 1, steps=1)
    assert seen[0] > 0


def test_texts_of_another_model_are_not_learnt_from(tiny: ModelEntry, tmp_path: Path) -> None:
    trainer = Trainer(target_of(tiny), tmp_path / "draft.gguf", 0.01, 1, lambda *_: None)
    Spent(model="ab" * 32).save(trainer.folder / "spent.json")
    with pytest.raises(BadDraft, match="of model abababababab"):
        trainer.run(PROMPTS, 1, steps=1)
    trainer.run(PROMPTS, 1, anew=True, steps=1)
    assert Spent.read(trainer.folder / "spent.json").model == tiny.model_id


def _unasked(number: int, frame: object) -> None:
    raise AssertionError("a training that is at work listens itself")


async def test_a_swarm_that_lacks_layers_is_said_so(tiny: ModelEntry) -> None:
    asked = [Question((5, 6), Sampling(), False, number) for number in range(3)]
    async with memory_swarm(tiny, (0, 2)) as swarm:
        with pytest.raises(NoRoute, match="2"):
            await SwarmWriter(swarm.client(patience=0.1)).write(asked, TOKENS)


def test_training_without_torch_is_said_so(
    tiny: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hearthring.shards.student", None)
    with pytest.raises(EngineUnavailable, match="pip install torch"):
        Trainer(target_of(tiny), tmp_path / "draft.gguf", 0.01, 1, lambda *_: None).run(PROMPTS, 1)
