"""How to ask: every option of both commands arrives where it counts."""

import inspect
from dataclasses import fields

import pytest
import typer

from hearthring.ask_commands import ask, chat
from hearthring.manner import Manner, with_manner
from hearthring.terminal import Bars, remark

FLAGS = (
    *("--draft", "suffix", "--pace", "4", "--remember", "--patience", "7", "--wire", "int8"),
    *("--allow-class-change", "--acceptance", "sequoia", "--explain-speculation"),
    *("--threads", "3", "--engine", "torch"),
)
SAID = Manner("suffix", "4", True, 7.0, True, "int8", "sequoia", True, 3, "torch")


def test_options_are_read_from_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEARTHRING_THREADS", raising=False)
    heard = list[tuple[str, Manner]]()
    usual = Manner()

    @with_manner
    def command(word: str, manner: Manner = usual) -> None:
        heard.append((word, manner))

    app = typer.Typer(add_completion=False)
    app.command()(command)
    run = typer.main.get_command(app)
    run.main(["a"], standalone_mode=False)
    run.main(["b", *FLAGS], standalone_mode=False)
    assert heard == [("a", usual), ("b", SAID)]
    unlike = [f.name for f in fields(Manner) if getattr(SAID, f.name) == getattr(usual, f.name)]
    assert not unlike, "each option must be told from its default"


def test_both_commands_have_them() -> None:
    names = [field.name for field in fields(Manner)]
    for command in (ask, chat):
        has = list(inspect.signature(command).parameters)
        assert [name for name in has if name in names] == names
        assert "manner" not in has


def test_client_and_request_are_as_said() -> None:
    with Bars() as bars, SAID.client(None, None, bars) as client:
        inner = client._client
        config, asked = inner.config, inner.answering
    assert (config.threads, config.engine, config.wire) == (3, "torch", "int8")
    assert (config.patience, config.allow_class_change, config.remember) == (7.0, True, True)
    assert asked.pace == "4"
    assert SAID.request() == {"draft": "suffix", "acceptance": "sequoia", "explain": remark}
    assert Manner().request() == {"draft": "auto", "acceptance": "gumbel"}
