"""The rules that no compiler enforces: what is packaged, who imports whom, what stays light."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS: dict[str, str] = SETUPTOOLS["package-dir"]
MAY_IMPORT = {
    "proto": set(),
    "protocol": {"proto"},
    "shards": {"protocol", "proto"},
    "verify": {"protocol", "proto"},
    "client": {"verify", "shards", "protocol", "proto"},
    "node": {"verify", "shards", "protocol", "proto"},
}


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_every_package_is_shipped() -> None:
    on_disk = {"hearthring"}
    for name, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            on_disk.add(".".join((name, *init.parent.relative_to(ROOT / folder).parts)))
    assert on_disk == set(SETUPTOOLS["packages"])


def test_links_match_the_mapping() -> None:
    links = [path for path in (ROOT / "hearthring").iterdir() if path.is_symlink()]
    found = {path.name: path.readlink().as_posix() for path in links}
    assert found == {name.split(".")[1]: f"../{folder}" for name, folder in FOLDERS.items()}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / folder).rglob("*.py")
        for name in imports(path)
        if name.startswith("hearthring.")
        and name.split(".")[1] not in MAY_IMPORT[folder] | {folder}
    ]
    assert wrong == []


def test_every_file_is_on_the_map() -> None:
    """``docs/structure.md`` names every file of every folder, and none that isn't there."""
    chapters = (ROOT / "docs/structure.md").read_text().split("\n**")[1:]
    folders = [ROOT / chapter.partition("/")[0] for chapter in chapters]
    assert {folder.name for folder in folders} >= {
        *FOLDERS.values(),
        "hearthring",
        "tests",
        "bench",
    }
    for folder, chapter in zip(folders, chapters, strict=True):
        named = set(re.findall(r"`(\w+\.py)`", chapter))
        files = {path.name for path in folder.rglob("[!_]*.py")} - {"conftest.py"}
        assert named == {name for name in files if not re.search("^test_|_pb2", name)}


def test_one_file_alone_imports_hivemind() -> None:
    importers = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS.values()
        for path in (ROOT / folder).rglob("*.py")
        if any(name.split(".")[0] == "hivemind" for name in imports(path))
    }
    assert importers == {"protocol/directory.py"}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import hearthring; hearthring.__version__", {"torch", "hivemind", "grpc", "numpy"}),
        ("import hearthring.cli", {"torch", "hivemind", "grpc", "numpy"}),
        ("import hearthring; hearthring.Client", {"hivemind"}),
        (
            "import hearthring.node.daemon, hearthring.shards.ggml_engine",
            {"torch", "hivemind", "scipy", "transformers", "tokenizers", "jinja2", "typer", "rich"},
        ),
        (
            "from hearthring.protocol import directory_process as process\n"
            "process._skip_training_half()\n"
            "import hearthring.protocol.directory",
            {"torch", "numpy", "scipy", "grpc", "pydantic"},
        ),
        ("import hearthring.verify.consistency", {"torch", "hivemind"}),
    ],
)
def test_what_is_heavy_waits(code: str, absent: set[str]) -> None:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert absent & set(done.stdout.split()) == set()
