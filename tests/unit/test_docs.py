"""What the documents name is there: commands, their options, benches, files."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from hearthring.cli import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
FILES = re.compile(r"\b(?:bench|tests|docs|scripts|examples|verify)/[\w./-]*\w")


def commands(group: Any, name: str = "hearthring") -> Iterator[tuple[str, set[str]]]:
    """Every command of the command line, with its options."""
    own = {opt for param in group.params for opt in (*param.opts, *param.secondary_opts)}
    yield name, own | {"--help"}
    for sub, command in getattr(group, "commands", {}).items():
        yield from commands(command, f"{name} {sub}")


COMMANDS = dict(commands(typer.main.get_command(app)))
KNOWN = {option for options in COMMANDS.values() for option in options}
IN_BENCHES = {o for path in ROOT.glob("bench/*.py") for o in OPTION.findall(path.read_text())}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_a_document_names_what_is_there(path: Path) -> None:
    text = path.read_text()
    assert set(OPTION.findall(text)) <= KNOWN | IN_BENCHES
    assert [name for name in FILES.findall(text) if not (ROOT / name).exists()] == []
    assert "python bench/" not in text  # they are modules
    for name in re.findall(r"-m (bench\.[a-z0-9_]+)", text):
        assert (ROOT / name.replace(".", "/")).with_suffix(".py").exists(), name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_a_documents_commands_know_their_options(path: Path) -> None:
    for line in re.findall(r"(?:^|`|\$ )(hearthring [^`#\n]+)", path.read_text(), re.M):
        words = line.split()
        name = " ".join(words[:3]) if " ".join(words[:3]) in COMMANDS else " ".join(words[:2])
        if words[1].isalpha():
            assert name in COMMANDS, line
            assert set(OPTION.findall(line)) <= COMMANDS[name], line
