"""Peer ids, signatures, and the file that holds a node's key."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import base58
import pytest

from hearthring.client.config import ClientConfig
from hearthring.protocol.errors import BadIdentityFile, BadSignature, Malformed
from hearthring.protocol.identity import Identity, node_id_of, public_key_of, verify

CREATE = (
    "import sys; from pathlib import Path; from hearthring.protocol.identity import Identity; "
    "sys.stdin.read(1); print(Identity.load_or_create(Path(sys.argv[1])).node_id)"
)


def test_the_id_is_the_public_key_in_libp2ps_writing() -> None:
    # The vector is libp2p's: the specification's ed25519 example key, as go-libp2p writes its id.
    public = bytes.fromhex("1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")
    node_id = node_id_of(public)
    assert base58.b58decode(node_id) == bytes.fromhex("002408011220") + public
    assert node_id.startswith("12D3KooW")
    assert public_key_of(node_id) == public


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12D3KooW",
        "0OIl",
        "é",
        "\0",
        "1" * 52,
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",  # an RSA key's
        "1" * 10_000,
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match="node id"):
        public_key_of(text)


def test_a_key_has_one_id_only() -> None:
    node_id = Identity.new().node_id
    for other in (node_id + " ", node_id + "\n", " " + node_id, "1" + node_id, node_id[:-1]):
        with pytest.raises(Malformed):
            public_key_of(other)


def test_a_signature_holds_for_its_message_and_its_signer() -> None:
    who, other = Identity.new(), Identity.new()
    signature = who.sign(b"message")
    verify(who.node_id, b"message", signature)
    for node_id, message, signed in (
        (other.node_id, b"message", signature),
        (who.node_id, b"massage", signature),
        (who.node_id, b"message", other.sign(b"message")),
        (who.node_id, b"message", signature[:-1]),
        (who.node_id, b"message", signature + b"\0"),
        (who.node_id, b"message", b""),
    ):
        with pytest.raises(BadSignature, match=node_id):
            verify(node_id, message, signed)


def test_a_file_is_made_once_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "identity.key"
    made = Identity.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_bytes() == made.libp2p_bytes()
    assert len(path.read_bytes()) == 68
    loaded = Identity.load_or_create(path)
    assert loaded.node_id == made.node_id
    verify(made.node_id, b"x", loaded.sign(b"x"))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_that_holds_no_key_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    whole = Identity.new().libp2p_bytes()
    stranger = Identity.new().libp2p_bytes()
    for garbage in (
        b"",
        b"x" * 68,
        whole[:-1],
        whole + b"\0",
        b"\x08\x00" + whole[2:],  # RSA
        whole[:36] + stranger[36:],  # another key's public half
    ):
        path.write_bytes(garbage)
        with pytest.raises(BadIdentityFile) as caught:
            Identity.load_or_create(path)
        assert caught.value.field == str(path)
        assert "move it away" in caught.value.mend
        assert path.read_bytes() == garbage


def test_a_place_where_no_file_can_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path, tmp_path / "file" / "identity.key"):
        with pytest.raises(BadIdentityFile) as caught:
            Identity.load_or_create(path)
        assert caught.value.field == str(path)


def test_a_client_whose_folder_can_not_be_is_somebody_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = ClientConfig((), data=tmp_path / "file" / "x")
    assert nowhere.identity().node_id != nowhere.identity().node_id
    kept = ClientConfig((), data=tmp_path / "x")
    assert kept.identity().node_id == kept.identity().node_id
    (tmp_path / "client.key").write_bytes(b"no key")
    with pytest.raises(BadIdentityFile):
        ClientConfig((), data=tmp_path).identity()


def test_processes_that_create_it_at_once_get_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    command = [sys.executable, "-c", CREATE, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]  # type: ignore[call-overload]
    for process in processes:  # they have been importing meanwhile: now all at once
        process.stdin.write(b"x")
        process.stdin.flush()
    ids = {process.communicate()[0].decode().strip() for process in processes}
    assert ids == {Identity.load_or_create(path).node_id}
    assert os.listdir(tmp_path) == [path.name]


def test_threads_that_create_it_at_once_get_the_same_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        for attempt in range(20):
            path = tmp_path / str(attempt) / "identity.key"
            made = list(threads.map(Identity.load_or_create, [path] * 8))
            assert {who.node_id for who in made} == {Identity.load_or_create(path).node_id}
            assert os.listdir(path.parent) == [path.name]
