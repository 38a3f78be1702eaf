"""Bars that come, go and come again, while several threads work."""

import threading
from itertools import count
from types import SimpleNamespace

import pytest
import rich.progress

from hearthring.terminal import Bars


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Bars:
    """Bars at a terminal, for work that has always taken long already."""
    ticks = count(step=5.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("hearthring.terminal.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    return Bars()


def shown(bars: Bars) -> list[tuple[str, float]]:
    assert bars._progress is not None
    return [(task.description, task.completed) for task in bars._progress.tasks]


def test_work_that_goes_on_after_bars_were_taken_away_is_shown_again(bars: Bars) -> None:
    """As when two turns of a chat wait for layers."""
    for _ in range(2):
        for done in range(3):
            bars("fetching", done, 3)
        assert shown(bars) == [("fetching", 2)]
        bars.close()
        assert bars._progress is None


def test_bars_may_be_taken_away_while_another_thread_reports(
    bars: Bars, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when an answer's first piece is there while something is still being fetched."""
    closing = threading.Thread(target=bars.close)
    add = rich.progress.Progress.add_task

    def add_while_closing(self: rich.progress.Progress, label: str, total: int) -> object:
        closing.start()
        closing.join(0.05)
        return add(self, label, total=total)

    monkeypatch.setattr(rich.progress.Progress, "add_task", add_while_closing)
    bars("fetching", 0, 3)
    bars("fetching", 1, 3)
    closing.join()
    assert bars._progress is None
