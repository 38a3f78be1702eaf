"""Every bench says how it is run, and its options are those that it says."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

from bench.drawn import FAULTS, catch

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__"): path
    for path in sorted([*ROOT.glob("bench/*.py"), *ROOT.glob("bench/*/__main__.py")])
    if '__name__ == "__main__"' in path.read_text()
}


def run_lines(path: Path) -> str:
    """What stands behind "Run:", up to an empty line."""
    about = ast.get_docstring(ast.parse(path.read_text())) or ""
    return about.partition("Run: ")[2].partition("\n\n")[0]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_bench_names_its_command(name: str) -> None:
    lines = run_lines(PROGRAMS[name])
    assert set(re.findall(r"python (\S+ \S+)", lines)) == {f"-m {name}"}


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "bench.unproven"])
def test_a_bench_knows_the_options_of_its_command(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = import_module(name if PROGRAMS[name].stem != "__main__" else f"{name}.__main__")
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit) as done:
        module.main()
    assert done.value.code == 0
    named = set(re.findall(r"--[a-z][a-z0-9-]*", run_lines(PROGRAMS[name])))
    assert named <= set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out))


def test_drawn_cells_meet_every_liar() -> None:
    assert catch(runs=1) == {"honest": 0.0, **dict.fromkeys(FAULTS, 1.0)}
