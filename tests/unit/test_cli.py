"""Commands with wrong input: one clear line, the right exit code, never a traceback."""

import asyncio
import errno
import io
import json
import socket
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import hearthring
from hearthring.cli import main
from hearthring.protocol.identity import Identity
from hearthring.protocol.records import NodeRecord
from hearthring.shards.store import ModelEntry
from hearthring.verify.proof import Proof, sign
from tests.memory_ring import memory_swarm

NOBODY = f"hearthring://127.0.0.1:9/{Identity.new().node_id}"
Capture = pytest.CaptureFixture[str]


def failed(capsys: Capture, *arguments: str) -> tuple[int, str]:
    """Exit code and the only line on standard error."""
    capsys.readouterr()
    code = main(list(arguments))
    said = capsys.readouterr().err.strip()
    assert said.startswith("hearthring: "), said
    assert "\n" not in said, said
    return code, said


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["node", "--model", "nonsuch"], 64, "there is no model 'nonsuch'"),
        (["node", "--model", "/nonsuch.gguf"], 64, "nonsuch"),
        (["ask", "hi", "--join", NOBODY, "--model", "/nonsuch.gguf"], 64, "there is no model"),
        (["ask", "hi", "--join", NOBODY, "--model", "nonsuch"], 69, "127.0.0.1:9"),
        (["ask", "hi"], 64, "join"),
        (["ask", "hi", "--join", "hearthring://x"], 64, "invitation: no HOST:PORT"),
        (["ask", "hi", "--join", "http://x:1/y"], 64, "doesn't begin with hearthring://"),
        (["ask", "hi", "--join", "hearthring://127.0.0.1:9/12D3"], 64, "no node id"),
        (["ask", "hi", "--join", NOBODY], 69, "127.0.0.1:9: connect"),
        (["ask", "hi", "--join", NOBODY, "--temperature", "-1"], 64, "temperature: -1"),
        (["ask", "hi", "--join", NOBODY, "--max-tokens", "0"], 64, "max_tokens"),
        (["ask", "hi", "--join", NOBODY, "--proof", "/nonsuch/x.proof"], 64, "there is no folder"),
        (["ask", "hi", "--join", NOBODY, "--proof", "/tmp"], 64, "proof: /tmp is a folder"),
        (["ask", "hi", "--join", NOBODY, "--draft", "magic"], 64, "draft: 'magic' isn't allowed"),
        (["ask", "hi", "--join", NOBODY, "--pace", "fast"], 64, "pace: 'fast' isn't allowed"),
        (["ask", "hi", "--join", NOBODY, "--acceptance", "all"], 64, "acceptance: 'all' isn't"),
        (["chat", "--join", NOBODY, "--wire", "fp8"], 64, "wire: there is no 'fp8'"),
        (["ask"], 64, "Missing argument 'PROMPT'"),
        (["ask", "hi", "--colour"], 64, "No such option"),
        (["swarm", "--join", NOBODY], 69, "127.0.0.1:9"),
        (["node", "--join", NOBODY, "--listen", "127.0.0.1:0"], 69, "127.0.0.1:9"),
        (["node", "--layers", "3"], 64, "layers: '3' isn't START:END"),
        (["node", "--layers", "5:2"], 64, "layers: '5:2'"),
        (["node", "--layers", "0:2,1:3"], 64, "layers: '0:2,1:3' has layers twice"),
        (["node", "--layers", "0:2,"], 64, "layers: '' isn't START:END"),
        (["node", "--layers", "3:5,0:1"], 64, "the model has layers 0:4"),
        (["node", "--layers", "0:5"], 64, "the model has layers 0:4"),
        (["node", "--layers", "0:2", "--engine", "magic"], 64, "engine"),
        (["node", "--layers", "0:2", "--residual", "fp8"], 64, "residual: 'fp8' isn't one of"),
        (["node", "--threads", "0"], 64, "threads"),
        (["node", "--listen", "nowhere"], 64, "listen: 'nowhere' is not HOST:PORT"),
        (["node", "--swarm-key", "/nonsuch"], 64, "swarm-key: /nonsuch: no such file"),
        (["node", "--swarm-key", "/nonsuch"], 64, "(make one with `openssl rand -hex 32 > /non"),
        (["node", "--swarm-key", "/dev/null"], 64, "swarm-key: /dev/null holds 0 bytes"),
        (["node", "--owner-key", "/"], 64, "owner-key: /: is a directory"),
        (["node", "--owner-key", "/dev/null"], 65, "/dev/null: not a libp2p ed25519 key"),
        (["node", "--max-layers", "0"], 64, "max-layers"),
        (["model", "show", "nonsuch"], 64, "there is no model"),
        (["model", "import", "org/name"], 69, "couldn't be fetched from the hub"),
        (["model", "import", "org/na me"], 64, "there is no model"),
        (["audit", "/nonsuch.proof"], 64, "no such file"),
        (["audit", "/nonsuch.proof", "--verifiers", "3"], 64, "verifiers: a swarm is needed"),
        (["reputation", "export", "/nonsuch/x"], 64, "no such file"),
        (["reputation", "import", "/nonsuch/x"], 64, "no such file"),
        (["reputation", "import", "/dev/null"], 65, "not an export"),
        (["draft", "train", "nonsuch"], 64, "there is no model 'nonsuch'"),
        (["draft", "train", "--out", "/nonsuch/x.gguf"], 64, "isn't a .gguf file in a folder"),
        (["draft", "train", "--prompts", "/nonsuch"], 64, "no such file"),
        (["draft", "forget", "--model", "nonsuch"], 64, "nothing is remembered of 'nonsuch'"),
        (["nonsuch"], 64, "No such command 'nonsuch'"),
    ],
)
def test_wrong_input(
    arguments: list[str],
    code: int,
    says: str,
    tiny: ModelEntry,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    if "--model" not in arguments and arguments[0] in ("node", "ask", "swarm"):
        arguments = [*arguments, "--model", str(tiny.path)]
    if arguments[0] == "node":
        arguments = [*arguments, "--data", str(tmp_path / "node")]
    got, said = failed(capsys, *arguments)
    assert (got, says in said) == (code, True), said


@pytest.mark.parametrize("command", [["ask", "-"], ["chat"]])
def test_input_that_is_no_text(
    command: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"why\xff"), "utf-8"))
    capsys.readouterr()
    assert main([*command, "--join", NOBODY]) == 64
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "hearthring: prompt: standard input isn't text in UTF-8"


def test_a_taken_port_is_said_at_once(tiny: ModelEntry, tmp_path: Path, capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = ["--model", str(tiny.path), "--data", str(tmp_path / "n"), "--layers", "0:2"]
        code, said = failed(capsys, "node", *flags, "--listen", listen)
    assert code == 69
    assert listen in said


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + bytes(60), b"\xff" * 4096])
def test_garbage_is_no_model(content: bytes, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    code, said = failed(capsys, "model", "import", str(path))
    assert code == 65
    assert str(path) in said


def test_a_truncated_model(tiny_gguf: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:-1000])
    assert failed(capsys, "model", "import", str(path))[0] == 65


def test_models_are_listed_and_shown(tiny: ModelEntry, capsys: Capture) -> None:
    assert main(["model", "import", str(tiny.path)]) == 0
    assert main(["model", "list"]) == 0
    assert tiny.model_id[:16] in capsys.readouterr().out
    assert main(["model", "show", tiny.model_id[:8], "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {"id", "path", "layers", "types", "context", "bytes"} <= set(shown)
    assert (shown["id"], shown["layers"], shown["context"]) == (tiny.model_id, 4, 512)
    assert main(["model", "list", "--json"]) == 0
    assert [m["id"] for m in json.loads(capsys.readouterr().out)] == [tiny.model_id]


async def _proof(tiny: ModelEntry, path: Path) -> None:
    async with memory_swarm(tiny, (0, 2, 4)) as swarm:
        answer = await swarm.client().generate("hi", max_tokens=3)
        answer.proof.save(path)


async def test_audit_exit_codes(
    tiny: ModelEntry, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.proof"
    await _proof(tiny, path)
    capsys.readouterr()
    assert main(["audit", str(path), "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert set(verdict) == {"verdict", "guilty", "strength", "figures", "reason"}
    assert (verdict["verdict"], verdict["strength"]) == ("accepted", "bits")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    for broken in (bytes(data), bytes(data[:50]), b"", bytes(data) + b"x", b"\0" * 300):
        path.write_bytes(broken)
        assert main(["audit", str(path)]) == 1
        assert capsys.readouterr().out.startswith("rejected: ")
    await _proof(tiny, path)
    monkeypatch.setenv("HEARTHRING_MODELS", str(tmp_path / "none"))
    assert main(["audit", str(path)]) == 2
    said = capsys.readouterr().out
    assert said.startswith("inconclusive: the model")
    assert "hearthring model import" in said


def test_a_disk_that_fails_in_an_audit_is_not_laid_at_the_proofs_door(
    tiny: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.proof"
    asyncio.run(_proof(tiny, path))

    def audit(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error", str(tiny.path))

    monkeypatch.setattr("hearthring.asking.audit_offline", audit)
    with pytest.raises(OSError, match=r"tiny\.gguf"):
        main(["audit", str(path)])


def test_what_strangers_say_of_themselves_draws_nothing_on_the_terminal(
    tiny: ModelEntry, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names in records and proofs are their makers'; a proof's own signature says no more."""
    who, said = Identity.new(), "fast\x1b[2J\n  [0, 4) forged"
    record = NodeRecord(who.node_id, tiny.model_id, ((0, 4),), (said,), 0.0, numerics=said)
    asked = SimpleNamespace(records=lambda: [record], model_entry=lambda: tiny)
    monkeypatch.setattr("hearthring.asking.Client", lambda *_, **__: nullcontext(asked))
    capsys.readouterr()
    assert main(["swarm", "--join", NOBODY]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert (first, len(lines)) == (f"{tiny.name}: 4 layers, 1 nodes", 1)
    assert lines[0].isprintable()
    path = tmp_path / "x.proof"
    asyncio.run(_proof(tiny, path))
    ours = Proof.load(path)
    sign(replace(ours, client=who.node_id, model_name=said), who).save(path)
    main(["proof", "show", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert sum("forged" in line for line in lines) == 1
    assert all(line.isprintable() for line in lines)


def test_help_teaches(capsys: Capture) -> None:
    for command in ([], ["node"], ["ask"], ["audit"], ["swarm"], ["demo"], ["model", "import"]):
        assert main([*command, "--help"]) == 0
        assert len(capsys.readouterr().out) > 150


@pytest.mark.parametrize(
    ("arguments", "name", "field", "code"),
    [
        (["ask", "hi", "--join", NOBODY, "--json"], "SeedUnreachable", "join", 69),
        (["ask", "hi", "--json", "--max-tokens", "x"], "UsageError", "", 64),
        (["ask", "hi", "--json", "--join", NOBODY, "--temperature", "-1"], "BadOption", "temp", 64),
        (["audit", "/nonsuch.proof", "--json"], "BadOption", "file", 64),
        (["model", "show", "nonsuch", "--json"], "UnknownModel", "", 64),
    ],
)
def test_with_json_an_error_is_an_object_too(
    arguments: list[str], name: str, field: str, code: int, capsys: Capture
) -> None:
    assert main(arguments) == code
    out, line = capsys.readouterr()
    error = json.loads(out)["error"]
    assert (error["name"], error["exit_code"]) == (name, code)
    assert error["field"].startswith(field)
    assert error["message"] in line
    assert main([argument for argument in arguments if argument != "--json"]) == code
    assert capsys.readouterr().out == ""


def test_groups_alone_show_what_they_are_about(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARTHRING_DISK", "3MB")
    assert main(["model"]) == 0
    assert "of a budget of 3.0 MiB" in capsys.readouterr().out
    assert main(["reputation"]) == 0
    assert capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hearthring {hearthring.__version__}\n"
    assert main([]) == 64
    assert capsys.readouterr().err.startswith("Usage: hearthring")
