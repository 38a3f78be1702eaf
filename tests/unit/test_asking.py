"""A chat whose answers fail: it goes on, at a terminal."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from hearthring import asking
from hearthring.client.answer import Piece
from hearthring.manner import Manner
from hearthring.protocol.errors import HearthringError, NoRoute, PromptTooLong

Said = str | HearthringError


class Scripted:
    """A client whose every stream says the next of ``turns``, errors raised."""

    def __init__(self, *turns: list[Said]) -> None:
        self.turns, self.asked = list(turns), list[Any]()

    def stream(self, *, messages: list[dict[str, str]], **options: Any) -> Iterator[Piece]:
        self.asked.append([one["content"] for one in messages])
        return self._say(self.turns.pop(0))

    def resume_stream(self, error: HearthringError) -> Iterator[Piece]:
        self.asked.append(error)
        return self._say(self.turns.pop(0))

    def _say(self, turn: list[Said]) -> Iterator[Piece]:
        for said in turn:
            if not isinstance(said, str):
                raise said
            yield Piece(said, None)


def begun(error: NoRoute) -> NoRoute:
    error.unfinished = object()
    return error


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> Any:
    def talk(client: Scripted, *lines: str, terminal: bool = True) -> list[Any]:
        typed = iter(lines)
        monkeypatch.setattr("builtins.input", lambda prompt="": next(typed, ""))
        monkeypatch.setattr("sys.stdin.isatty", lambda: terminal, raising=False)
        monkeypatch.setattr(Manner, "client", lambda *_: nullcontext(client))
        asking.chat(None, None, Manner(), None, {})
        return client.asked

    return talk


def test_an_answer_that_failed_goes_on_from_where_it_was(
    talk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = begun(NoRoute("nobody has layer 3"))
    client = Scripted(["so ", lost], ["it is"], ["bye"])
    asked = talk(client, "why", "y", "then")
    assert asked == [["why"], lost, ["why", "so it is", "then"]]
    told = capsys.readouterr()
    assert told.out == "so \nit is\nbye\n"
    assert "hearthring: nobody has layer 3\n" in told.err


def test_a_request_that_never_began_is_asked_again(talk: Any) -> None:
    client = Scripted([NoRoute("x")], ["yes"])
    assert talk(client, "why", "y") == [["why"], ["why"]]


def test_a_turn_of_which_nothing_was_said_leaves_the_talk_as_it_was(talk: Any) -> None:
    client = Scripted(["a"], [begun(NoRoute("x"))], [PromptTooLong("x")], ["b"])
    asked = talk(client, "one", "two", "n", "three", "four")
    assert asked == [["one"], ["one", "a", "two"], ["one", "a", "three"], ["one", "a", "four"]]


def test_what_was_said_before_an_error_stays(talk: Any) -> None:
    client = Scripted(["half", begun(NoRoute("x"))], ["b"])
    assert talk(client, "one", "n", "two") == [["one"], ["one", "half", "two"]]


def test_a_script_s_chat_ends_with_the_error(talk: Any) -> None:
    with pytest.raises(NoRoute):
        talk(Scripted([NoRoute("x")]), "one", terminal=False)
