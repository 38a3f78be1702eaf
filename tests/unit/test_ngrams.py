"""What earlier sessions wrote is guessed from, and nothing else is done with it."""

import json
import sqlite3
import stat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from hearthring.cli import main
from hearthring.client.draft import Setting
from hearthring.client.drafts import open_speculation
from hearthring.client.ngrams import DEPTH, FRESH, NgramDraft, NgramIndex, NgramStore, open_ngrams
from hearthring.client.pace import Fixed
from hearthring.client.prior import History
from hearthring.client.remembered import TEXT_TOKENS, Remembered, open_remembered
from hearthring.client.request import PromptModel
from hearthring.client.sampler import Sampling
from hearthring.protocol.errors import BadMemory
from hearthring.shards.store import ModelEntry
from hearthring.verify.evidence_store import Reputation
from tests.memory_ring import memory_swarm
from tests.schedules import CUTS

ASKED = "a b a b c"


def longest(texts: list[list[int]], ending: list[int]) -> tuple[int, list[int]]:
    """By brute force: how much of the ending occurs most, and what followed it, text by text."""
    for length in range(min(DEPTH, len(ending)), 0, -1):
        wanted = ending[len(ending) - length :]
        found = [
            text[at] if at < len(text) else -1
            for text in texts
            for at in range(length, len(text) + 1)
            if text[at - length : at] == wanted
        ]
        if found:
            return length, found
    return 0, []


@pytest.mark.parametrize("vocabulary", [2, 5, 2_000_000])
def test_an_index_finds_what_brute_force_finds(vocabulary: int) -> None:
    draw = np.random.default_rng(vocabulary)
    texts = [draw.integers(0, vocabulary, int(n)).tolist() for n in draw.integers(0, 40, 12)]
    index = NgramIndex([np.asarray(text, "<u4") for text in texts])
    known = 0
    for _ in range(400):
        if draw.random() < 0.5 and (text := texts[int(draw.integers(len(texts)))]):
            at = int(draw.integers(len(text) + 1))
            ending = [*draw.integers(0, vocabulary, 2).tolist(), *text[max(0, at - 20) : at]]
        else:
            ending = draw.integers(0, vocabulary, int(draw.integers(0, 16))).tolist()
        length, places = index.find(ending)
        wanted, followed = longest(texts, ending)
        assert length == wanted
        assert sorted(int(token) - 1 for token in index.flat[places]) == sorted(followed)
        known += length == DEPTH
    assert known > 20 or vocabulary == 2_000_000


def test_guesses_are_what_followed_most(tmp_path: Path) -> None:
    remembered = Remembered(tmp_path / "texts.db")
    for last in (7, 8, 8):
        remembered.add("v", "m", "name", [1, 2, 3, 4, last, 9, 9])
    remembered.add("other", "m", "name", [1, 2, 3, 4, 5])
    draft = NgramDraft(NgramStore(remembered, "v", 100))
    draft.observe([1, 2, 3])
    chain = draft.propose((), 3)
    assert [guess.token for guess in chain] == [4, 8, 9]
    assert chain[0].chance > chain[1].chance
    assert [guess.token for guess in draft.propose((4, 7), 2)] == [9, 9]
    assert draft.propose((50,), 4) == []
    wide = NgramDraft(NgramStore(remembered, "v", 100), wide=2)
    wide.observe([2, 3, 4])
    both = [guess for guess in wide.propose((), 8) if guess.parent < 0]
    assert [guess.token for guess in both] == [8, 7]
    assert sum(guess.chance for guess in both) <= 1


def test_a_draft_learns_what_its_guesses_are_worth(tmp_path: Path) -> None:
    remembered = Remembered(tmp_path / "texts.db")
    remembered.add("v", "m", "name", list(range(1, 60)))
    right, wrong = (NgramDraft(NgramStore(remembered, "v", 100)) for _ in range(2))
    right.observe(list(range(1, 40)))
    for token in range(1, 40):
        wrong.observe([token, 99])
    wrong.observe([2])
    assert right.propose((), 1)[0].chance > 0.9
    assert wrong.propose((), 1) == []  # known to be wrong, as [2] alone was always


def test_what_others_add_is_seen_at_the_next_text(tmp_path: Path) -> None:
    remembered = Remembered(tmp_path / "texts.db")
    remembered.add("v", "m", "name", [90, 91, 92])
    draft = NgramDraft(NgramStore(remembered, "v", 1 << 16))
    for number in range(6):  # one of them is too much for the fresh index
        Remembered(remembered.path).add("v", "m", "x", [70 + number, *[number] * (FRESH // 5)])
        draft.forget()
        draft.observe([70 + number])
        assert [guess.token for guess in draft.propose((), 2)] == [number, number]
        draft.forget()
        draft.observe([90])
        assert [guess.token for guess in draft.propose((), 2)] == [91, 92]


def test_the_oldest_texts_go_first(tmp_path: Path) -> None:
    remembered = Remembered(tmp_path / "texts.db", most=400)
    for number in range(30):
        remembered.add("v", f"model {number % 2}", "name", [number] * 20)
    kept = [int(tokens[0]) for _, tokens in remembered.after(0, "v")]
    assert kept == list(range(25, 30))
    assert sum(share.tokens for share in remembered.shares()) == 100
    assert remembered.shares()[0].model == "model 1"
    Remembered(remembered.path).add("v", "m", "long", range(TEXT_TOKENS + 5))
    assert remembered.after(0, "v")[-1][1][0] == 5
    assert remembered.forget("model 0") == 2
    assert {share.model for share in remembered.shares()} == {"model 1", "m"}
    assert remembered.forget() == 4
    assert not remembered.path.exists()
    assert remembered.shares() == []


def test_forgotten_texts_are_overwritten(tmp_path: Path) -> None:
    remembered, secret = Remembered(tmp_path / "texts.db"), [0x5EC12E7] * 3
    remembered.add("v", "m", "name", secret)
    remembered.add("v", "n", "name", [1])
    token = np.asarray(secret, "<u4").tobytes()
    assert token in remembered.path.read_bytes()
    remembered.forget("m")
    assert token not in remembered.path.read_bytes()


def _add(path: str, first: int) -> None:
    for number in range(first, first + 20):
        Remembered(Path(path)).add("v", "m", "name", [number])


def test_processes_remember_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "texts.db")
    others = [get_context("fork").Process(target=_add, args=(path, n)) for n in (100, 200)]
    for other in others:
        other.start()
    _add(path, 300)
    for other in others:
        other.join(30)
        assert other.exitcode == 0
    kept = {int(tokens[0]) for _, tokens in Remembered(Path(path)).after(0, "v")}
    assert kept == {n + i for n in (100, 200, 300) for i in range(20)}


def test_files_of_the_user_are_closed_to_others(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("texts.db", "speculation.db", "reputation.db")]
    for path in paths:
        path.touch(0o644)
        path.chmod(0o644)  # as files were that earlier releases made
    Remembered(paths[0]).add("v", "m", "name", [1])
    History(paths[1]).all()
    Reputation(paths[2])
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600] * 3


@pytest.mark.parametrize("content", ["noise", "foreign", "damaged"])
def test_a_file_that_is_none_is_said_so_and_left(
    tiny: ModelEntry, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "texts.db"
    if content == "noise":
        path.write_bytes(b"anything" * 999)
    else:
        if content == "damaged":
            Remembered(path).add(tiny.manifest.tokenizer, "m", "name", [1, 2])
        with sqlite3.connect(path) as base:
            change = {
                "foreign": "CREATE TABLE x (y)",
                "damaged": "UPDATE text SET tokens = x'010203'",
            }
            base.execute(change[content])
        base.close()
    before, said = path.read_bytes(), list[str]()
    remembered = Remembered(path)
    with pytest.raises(BadMemory, match="draft forget"):
        remembered.after(0, tiny.manifest.tokenizer)
    setting = Setting(PromptModel(tiny, tiny.open()), Sampling(), remembered=remembered)
    speculation = open_speculation("ngrams", setting, lambda: Fixed(3), said.append)
    assert speculation.draft is not None
    speculation.begin([1, 2])
    assert speculation.draft.propose((), 3) == []
    assert "draft forget" in said[0]
    assert path.read_bytes() == before
    remembered.forget()
    remembered.add("v", "m", "name", [1])
    assert len(remembered.after(0, "v")) == 1


def test_tokens_outside_the_vocabulary_are_never_guessed(tiny: ModelEntry, tmp_path: Path) -> None:
    remembered, size = Remembered(tmp_path / "texts.db"), tiny.manifest.shape.vocabulary
    for token in (size, 2**32 - 1):
        remembered.add(tiny.manifest.tokenizer, "m", "name", [1, token])
    setting = Setting(PromptModel(tiny, tiny.open()), Sampling(), remembered=remembered)
    draft = open_ngrams(setting)
    draft.observe([1])
    assert draft.propose((), 3) == []


async def test_an_answer_is_guessed_from_the_one_before(tiny: ModelEntry) -> None:
    said, trips = list[str](), list[int]()
    async with memory_swarm(tiny, CUTS) as swarm:
        plain = await swarm.client().generate(ASKED, draft="none", max_tokens=40)
        assert open_remembered().shares() == []  # nobody asked for it
        for _ in range(2):
            client = swarm.client(remember=True)
            client.answering.pace = lambda: Fixed(4)
            answer = await client.generate(
                ASKED, draft="ngrams", max_tokens=40, explain=said.append
            )
            assert answer.token_ids == plain.token_ids
            trips.append(answer.guessing.trips)
        share = open_remembered().shares()[0]
        assert (share.model, share.name, share.texts) == (tiny.model_id, tiny.name, 2)
        assert trips[1] * 3 < trips[0]
        # Both drafts are at work without being named, and one that can't be kept fails nothing.
        answer = await client.generate(ASKED, max_tokens=40, explain=said.append)
        assert answer.guessing.draft == "suffix+ngrams"
        open_remembered().path.write_bytes(b"anything" * 999)
        answer = await client.generate(ASKED, draft="none", max_tokens=4, explain=said.append)
        assert answer.token_ids == plain.token_ids[:4]
        assert "draft forget" in said[-1]
        with pytest.raises(BadMemory, match="draft forget"):
            swarm.client(remember=True)


def test_commands_show_and_forget(tiny: ModelEntry, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tiny.manifest.tokenizer, tiny.model_id, tiny.name
    for count in (3, 4):
        open_remembered().add(*kept, range(count))
    open_remembered().add("v", "other", "another model", [1])
    assert main(["draft", "list", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["remembered"]
    assert [(one["name"], one["texts"], one["tokens"]) for one in shown] == [
        ("another model", 1, 1),
        (tiny.name, 2, 7),
    ]
    assert main(["draft", "forget", "--model", tiny.model_id[:8]]) == 0
    assert "2 texts forgotten" in capsys.readouterr().out
    assert main(["draft", "list"]) == 0
    assert capsys.readouterr().out.startswith("another model")
    assert main(["draft", "forget"]) == 0
    assert not open_remembered().path.exists()
    assert main(["draft", "list"]) == 0
    assert "no text is remembered" in capsys.readouterr().out
