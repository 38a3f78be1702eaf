"""What a client learns of its drafts from one answer to the next, in a ring of this process."""

from pathlib import Path

import pytest

from hearthring.client.calibration import Calibration
from hearthring.client.lessons import ENOUGH, Lesson, Lessons, Tally
from hearthring.client.pace import Fixed
from hearthring.client.prior import Experience, History
from hearthring.client.situation import LOOK, Situation
from hearthring.shards.store import ModelEntry
from tests.memory_ring import memory_swarm
from tests.schedules import CUTS

HERE = Situation("m", 0.0, 30, False, 2, 0.01, 0.001, 0.001)


def test_an_answer_teaches_the_next_one(tmp_path: Path) -> None:
    history, said = History(tmp_path / "speculation.db"), list[str]()
    for answer in range(6):
        lesson = Lesson(Lessons(history), "suffix", HERE, range(30), said.append)
        calibration = Calibration()
        lesson.begin(calibration)
        told = calibration.rate(0.5)
        tally = Tally()
        for place in range(40):
            tally.saw(0.5, place % 10 == 0)
        lesson.end(tally)
        if answer == 0:
            assert told == pytest.approx(0.5, abs=0.02)
    assert told < 0.3
    assert len(said) == 5
    assert "5 answers before" in said[-1]
    assert history.all()[-1] == Experience(HERE, "suffix", 40, 4, 0.5)


def test_too_few_guesses_teach_nothing(tmp_path: Path) -> None:
    history = History(tmp_path / "speculation.db")
    Lesson(Lessons(history), "suffix", HERE, ()).end(Tally(ENOUGH - 1, 0, 1.0))
    assert history.all() == ()


def test_what_an_answer_shows_of_itself_counts(tmp_path: Path) -> None:
    """Copied texts were guessed well before, others weren't: the first tokens tell which it is."""
    lessons = Lessons(History(tmp_path / "speculation.db"))
    prompt, other = list(range(40)), list(range(100, 140))
    for _ in range(12):
        for answer, accepted in ((prompt, 36), (other, 4)):
            lesson = Lesson(lessons, "suffix", HERE, prompt)
            lesson.wrote(answer[:LOOK], Calibration())
            lesson.end(Tally(40, accepted, 20.0))
    rates = []
    for answer in (prompt, other):
        lesson, calibration = Lesson(lessons, "suffix", HERE, prompt), Calibration()
        lesson.begin(calibration)
        before = calibration.rate(0.5)
        for token in answer:
            lesson.wrote([token], calibration)
        rates.append(calibration.rate(0.5) - before)
    assert rates[0] > 0.1
    assert rates[1] < -0.1


async def test_lessons_of_a_ring(tiny: ModelEntry, tmp_path: Path) -> None:
    said: list[str] = []
    async with memory_swarm(tiny, CUTS) as swarm:
        client = swarm.client()
        plain = await client.generate("a b a b a b a b", draft="none", max_tokens=40)
        history = History(tmp_path / "speculation.db")
        client.answering.lessons = Lessons(history)
        client.answering.pace = lambda: Fixed(3)
        for _ in range(2):
            answer = await client.generate(
                "a b a b a b a b", draft="suffix", max_tokens=40, explain=said.append
            )
            assert answer.token_ids == plain.token_ids
    learnt = history.all()
    assert [one.draft for one in learnt] == ["suffix", "suffix"]
    assert all(0 <= one.accepted <= one.tried and one.tried >= ENOUGH for one in learnt)
    assert learnt[0].situation.stages == len(CUTS) - 1
    assert learnt[0].situation.overlap is not None
    assert any("1 answers before" in line for line in said)
