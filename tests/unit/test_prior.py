"""What earlier answers teach about drafts, and the file that keeps them."""

import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hearthring.client import prior as module
from hearthring.client.prior import DEFAULT, LEAST_ROUNDS, MOST_ROUNDS, Experience, History, learn
from hearthring.client.situation import (
    FEATURES,
    Situation,
    entropy,
    looks_like_code,
    overlap,
)

CHAT = Situation("model-a", 0.0, 60, False, 4, 0.07, 0.004, 0.01)


def experiences(count: int, seed: int = 0) -> list[Experience]:
    """Answers in which copying helps drafts of kind ``suffix``, and heat hurts every draft."""
    draw, made = np.random.default_rng(seed), []
    for _ in range(count):
        situation = replace(
            CHAT,
            temperature=float(draw.choice([0.0, 1.0])),
            overlap=float(draw.random()),
            code=bool(draw.random() < 0.5),
            hop=float(draw.choice([0.001, 0.01, 0.05])),
        )
        for draft in ("suffix", "model"):
            rate = true_rate(draft, situation)
            made.append(Experience(situation, draft, 80, int(draw.binomial(80, rate)), rate**2))
    return made


def true_rate(draft: str, situation: Situation) -> float:
    seen = situation.overlap or 0.0
    score = -2 + 4 * seen if draft == "suffix" else 0.5
    return float(1 / (1 + np.exp(-(score - 0.9 * situation.temperature))))


def test_nothing_learnt_is_the_default() -> None:
    expected = learn([]).expect("suffix", CHAT)
    assert expected.acceptance == pytest.approx(DEFAULT)
    assert expected.rounds == LEAST_ROUNDS


def test_the_regression_foretells_answers_to_come() -> None:
    """Closer to the truth in answers not seen than each draft's average, and soon."""
    new = experiences(100, seed=1)
    for count, share in ((12, 0.8), (150, 0.35)):
        seen = experiences(count)
        learnt = learn(seen)
        errors: list[float] = []
        usual: list[float] = []
        for one in new:
            truth = true_rate(one.draft, one.situation)
            errors.append(abs(learnt.expect(one.draft, one.situation).acceptance - truth))
            alike = [e.accepted / e.tried for e in seen if e.draft == one.draft]
            usual.append(abs(float(np.mean(alike)) - truth))
        assert np.mean(errors) < share * np.mean(usual)


def test_expectations_count_for_five_to_ten_rounds() -> None:
    few, many = learn(experiences(2)), learn(experiences(200))
    counts = [p.expect("suffix", CHAT).rounds for p in (few, many)]
    assert LEAST_ROUNDS < counts[0] < counts[1] < MOST_ROUNDS
    assert many.expect("never tried", CHAT).rounds == LEAST_ROUNDS


def test_a_draft_or_model_never_seen_gets_what_others_got() -> None:
    learnt = learn([Experience(CHAT, "suffix", 50, 45, 0.5)] * 20)
    assert learnt.expect("suffix", CHAT).acceptance > 0.8
    other = learnt.expect("other", replace(CHAT, model="model-b")).acceptance
    assert DEFAULT < other < learnt.expect("suffix", CHAT).acceptance


def test_what_a_draft_states_too_much_is_taken_off() -> None:
    """Log odds that are off by a constant, whatever a draft states: that is the shift."""
    for off in (-1.5, 0.0, 1.0):
        draw, seen = np.random.default_rng(2), []
        for _ in range(60):
            stated = float(draw.uniform(0.1, 0.9))
            rate = 1 / (1 + (1 - stated) / stated * np.exp(-off))
            seen.append(Experience(CHAT, "suffix", 80, int(draw.binomial(80, rate)), stated))
        learnt = learn(seen)
        assert learnt.expect("suffix", CHAT).shift == pytest.approx(off, abs=0.15)
        assert learnt.known("suffix") == 60
    assert learn([]).expect("suffix", CHAT).shift == 0


def test_extremes_stay_chances() -> None:
    for accepted in (0, 50):
        learnt = learn([Experience(CHAT, "suffix", 50, accepted, 0.5)] * 100)
        assert 0 < learnt.expect("suffix", CHAT).acceptance < 1
    assert (
        learn([Experience(CHAT, "suffix", 0, 0, 0.0)]).expect("suffix", CHAT).rounds == LEAST_ROUNDS
    )
    wild = Situation("m", 100.0, 10**6, True, 64, 1e-9, 1e-9, 1e3, 1.0, 99.0)
    assert len(wild.features()) == len(FEATURES)
    assert max(abs(value or 0) for value in wild.features()) < 5


def test_history_is_kept_and_private(tmp_path: Path) -> None:
    path, some = tmp_path / "deep" / "history.sqlite", experiences(3)
    for one in some:
        History(path).add(one)
    assert History(path).all() == tuple(some)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    History(path).forget()
    assert History(path).all() == ()


def test_history_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 4)
    history, some = History(tmp_path / "history.sqlite"), experiences(5)
    for one in some:
        history.add(one)
    assert history.all() == tuple(some[-4:])


def test_a_spoilt_history_fails_nobody(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    history = History(path)
    history.add(experiences(1)[0])
    assert history.all() == ()
    assert "database" in history.trouble
    history.forget()
    history.add(experiences(1)[0])
    with sqlite3.connect(path) as base:
        for told in ("{}", "{"):
            base.execute(
                "INSERT INTO experience (draft, tried, accepted, stated, situation) "
                "VALUES ('x', 1, 1, 1, ?)",
                (told,),
            )
    base.close()
    assert len(history.all()) == 1
    blocked = History(tmp_path / "history.sqlite" / "below")
    blocked.add(experiences(1)[0])
    assert blocked.all() == ()
    assert blocked.trouble
    assert os.path.exists(path)


def test_what_is_told_of_a_text() -> None:
    assert overlap([1, 2, 3, 4, 5], [2, 3, 4, 9]) == 0.5
    assert overlap([1, 2], [1, 2, 3]) == 0
    assert overlap([1, 2, 3], [1, 2]) is None
    assert entropy(np.array([0.25, 0.25, 0.5, 0.0])) == pytest.approx(1.5 * np.log(2))
    assert looks_like_code("Fix this:\n```\nx = 1\n```")
    assert looks_like_code("import os\nfor (;;) {\n")
    assert not looks_like_code("Dear Sir;\nI return to the matter. \nYours")
    unknown = replace(CHAT, overlap=None).features()
    assert unknown[FEATURES.index("overlap")] is None
