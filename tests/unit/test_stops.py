"""Stop strings: nothing of them gets out, nothing else is kept."""

import pytest

from hearthring.client.stops import StopWatcher
from hearthring.protocol.errors import BadOption


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    watcher, out, stopped = StopWatcher(stops), "", False
    for piece in pieces:
        emit, stopped = watcher.feed(piece)
        out += emit
    return out + watcher.flush(), stopped


def test_without_stops_everything_passes_at_once() -> None:
    watcher = StopWatcher([])
    assert watcher.feed("text") == ("text", False)
    assert watcher.flush() == ""


def test_stop_within_a_piece() -> None:
    assert run(["END"], ["before END after"]) == ("before ", True)


def test_stop_over_several_pieces() -> None:
    watcher = StopWatcher(["<end>"])
    assert watcher.feed("abc<") == ("abc", False)
    assert watcher.feed("en") == ("", False)
    assert watcher.feed("d>more") == ("", True)
    assert watcher.feed("more") == ("", True)
    assert watcher.flush() == ""


def test_held_text_is_released_when_it_turns_out_harmless() -> None:
    watcher = StopWatcher(["<end>"])
    assert watcher.feed("a<en") == ("a", False)
    assert watcher.feed("try>") == ("<entry>", False)


def test_flush_releases_an_unfinished_stop_once() -> None:
    watcher = StopWatcher(["\n\n"])
    assert watcher.feed("line\n") == ("line", False)
    assert watcher.flush() == "\n"
    assert watcher.flush() == ""


def test_a_beginning_within_a_beginning() -> None:
    assert run(["aab"], list("aaab")) == ("a", True)
    assert run(["abac"], list("ababac")) == ("ab", True)


def test_the_stop_that_ends_first_counts() -> None:
    assert run(["abcd", "bc"], ["abcd"]) == ("a", True)
    assert run(["abcd", "bc"], list("abcd")) == ("a", True)
    assert run(["c", "abc"], ["xabc"]) == ("x", True)
    assert run(["b", "a"], ["xab"]) == ("x", True)


def test_empty_pieces_change_nothing() -> None:
    assert run(["ab"], ["", "a", "", "b", ""]) == ("", True)
    assert StopWatcher(["a"]).feed("") == ("", False)


def test_other_alphabets() -> None:
    assert run(["終わり"], ["これで終", "わり。"]) == ("これで", True)


def test_limits() -> None:
    StopWatcher(["x" * 200] * 16)
    for bad in ([""], ["ok", ""], ["x" * 201], ["x"] * 17, "text", [1]):
        with pytest.raises(BadOption) as caught:
            StopWatcher(bad)  # type: ignore[arg-type]
        assert caught.value.field == "stop"
