"""Proofs as files: altered ones are refused, texts hidden and revealed, by commands too."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hearthring.cli import main
from hearthring.client.auditing import audit_offline
from hearthring.protocol.errors import BadProof
from hearthring.protocol.limits import LIMITS
from hearthring.shards.store import ModelEntry
from hearthring.verify.hiding import pack_ids
from hearthring.verify.proof import Proof, read
from hearthring.verify.verdict import Outcome
from tests.proofs import prove


async def test_every_flipped_byte_is_refused(tiny: ModelEntry) -> None:
    """Not one bit of a proof may change: the client's signature covers all of it."""
    proof = await prove(tiny, max_tokens=2)
    data = bytearray(proof._file)
    assert read(bytes(data)) == proof
    for at in range(len(data)):
        data[at] ^= 1 << at % 8
        with pytest.raises(BadProof):
            read(bytes(data))
        data[at] ^= 1 << at % 8
    text = 4 * len(proof.token_ids)
    for cut in range(len(data)):
        if cut != len(data) - text:  # exactly without its text it is the hidden proof
            with pytest.raises(BadProof):
                read(bytes(data[:cut]))
    with pytest.raises(BadProof):
        read(bytes(data) + b"\0")


async def test_more_stages_than_a_route_may_have_are_refused_before_they_are_read(
    tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (await prove(tiny, max_tokens=1))._file
    monkeypatch.setattr("hearthring.verify.proof.LIMITS", replace(LIMITS, hops=3))
    assert len(read(data).stages) == 3
    monkeypatch.setattr("hearthring.verify.proof.LIMITS", replace(LIMITS, hops=2))
    with pytest.raises(BadProof, match=r"proof\.stages"):
        read(data)


@pytest.mark.parametrize(("version", "age"), [(1, "an earlier"), (3, "a later")])
async def test_a_file_of_another_format_is_refused_by_its_version(
    tiny: ModelEntry, version: int, age: str
) -> None:
    data = bytearray((await prove(tiny, max_tokens=1))._file)
    data[17] = version
    with pytest.raises(BadProof, match=f"proof.version: format {version} .* {age} release.*ask"):
        read(bytes(data))


async def test_a_text_is_hidden_and_revealed_under_one_signature(
    tiny: ModelEntry, tmp_path: Path
) -> None:
    proof = await prove(tiny)
    hidden = Proof.load(proof.hidden().save(tmp_path / "hidden.proof"))
    assert (hidden.is_hidden, hidden.token_ids, hidden.rows) == (True, (), proof.rows)
    assert (hidden.kinds, hidden.file_hash) == (proof.kinds, proof.file_hash)
    assert hidden.text_hash == proof.text_hash
    assert pack_ids(proof.token_ids[:8]) not in hidden._file
    assert hidden.hidden() == hidden
    view = hidden.as_json()
    assert (view["hidden"], view["token_ids"], view["tokens"]) == (True, [], 70)
    verdict = audit_offline(hidden, 1)
    assert (verdict.outcome, "hidden" in verdict.reason) == (Outcome.INCONCLUSIVE, True)
    revealed = hidden.reveal(proof.token_ids)
    assert (revealed, revealed._file, revealed.is_hidden) == (proof, proof._file, False)
    ids = proof.token_ids
    others = ((ids[0] + 1, *ids[1:]), (*ids[:-1], ids[-1] + 1), ids[:-1], (*ids, 0), (-1, *ids[1:]))
    for other in others:
        with pytest.raises(BadProof):
            hidden.reveal(other)


async def test_the_reader_needs_no_torch(tiny: ModelEntry, tmp_path: Path) -> None:
    """Reading, checking and showing a proof, and hiding its text, in a process of its own."""
    path = (await prove(tiny, max_tokens=2)).save(tmp_path / "x.proof")
    script = (
        "import sys\n"
        "from hearthring.cli import main\n"
        f"assert main(['proof', 'show', {str(path)!r}]) == 0\n"
        f"assert main(['proof', 'hide', {str(path)!r}, {str(path) + '.h'!r}]) == 0\n"
        "print('loaded', *sys.modules)"
    )
    command = [sys.executable, "-c", script]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=True
    )
    shown, _, modules = done.stdout.partition("loaded ")
    assert "nothing that contradicts itself" in shown
    assert {"torch", "hivemind", "grpc", "tokenizers"} & set(modules.split()) == set()


async def test_proof_commands(
    tiny: ModelEntry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = await prove(tiny, max_tokens=2)
    full, hidden, back, ids = (str(tmp_path / name) for name in ("full", "hidden", "back", "ids"))
    proof.save(full)
    assert main(["proof", "show", full, "--json"]) == 0
    view = json.loads(capsys.readouterr().out)
    assert (view["token_ids"], view["contradiction"]) == (list(proof.token_ids), None)
    Path(ids).write_text(json.dumps(view))
    assert main(["proof", "hide", full, hidden]) == 0
    assert main(["proof", "reveal", hidden, ids, back]) == 0
    assert Path(back).read_bytes() == Path(full).read_bytes() != Path(hidden).read_bytes()
    Path(ids).write_text(json.dumps([1, 2, 3]))
    assert main(["proof", "reveal", hidden, ids, back]) != 0
    for wrong in ("[1.5]", "{}", "nothing", "[true]"):
        Path(ids).write_text(wrong)
        assert main(["proof", "reveal", hidden, ids, back]) == 64
    Path(ids).write_text(json.dumps(view))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").touch()
    for nowhere in (tmp_path / "folder", tmp_path / "none" / "x"):
        assert main(["proof", "hide", full, str(nowhere)]) == 64
        assert main(["proof", "reveal", hidden, ids, str(nowhere)]) == 64
    assert not list(tmp_path.glob(".proof-*"))
    assert main(["proof", "show", str(tmp_path / "none")]) == 64
    assert main(["proof", "show", hidden]) == 0
    assert "hidden" in capsys.readouterr().out
