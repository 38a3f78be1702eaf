"""Options of a node that are read from text, and that they reach its configuration."""

from pathlib import Path
from typing import Any

import pytest

from hearthring.cli import main
from hearthring.node import daemon
from hearthring.node.config import NodeConfig, read_link, read_owner_key
from hearthring.protocol.errors import BadIdentityFile, BadOption
from hearthring.protocol.identity import Identity


def test_a_link_is_read_in_megabits() -> None:
    assert read_link("40:100") == (5e6, 12.5e6)
    assert read_link("0.8:1.6") == (1e5, 2e5)


@pytest.mark.parametrize(
    "text", ["", "40", "40:", "a:b", "0:1", "1:0", "-1:5", "1:2:3", "nan:1", "1:inf"]
)
def test_what_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(BadOption, match="UP:DOWN"):
        read_link(text)


def test_an_owners_key_is_hex_or_what_nodes_keep(tmp_path: Path) -> None:
    node = Identity.new()
    (tmp_path / "node").write_bytes(node.libp2p_bytes())
    assert read_owner_key(tmp_path / "node", print).node_id == node.node_id
    seed = node.libp2p_bytes()[4:36]
    (tmp_path / "hex").write_text(seed.hex() + "\n")
    assert read_owner_key(tmp_path / "hex", print).node_id == node.node_id
    for garbage in (seed.hex()[:-2], "", seed.hex() * 2):
        (tmp_path / "garbage").write_text(garbage)
        with pytest.raises(BadIdentityFile, match="garbage"):
            read_owner_key(tmp_path / "garbage", print)


def test_a_new_owner_is_told_and_kept(tmp_path: Path) -> None:
    said, key = list[str](), tmp_path / "owner"
    made = read_owner_key(key, said.append)
    assert read_owner_key(key, said.append).node_id == made.node_id
    assert said == [
        f"{made.node_id}, new in {key}: give that file to your other nodes",
        made.node_id,
    ]


def test_rates_reach_the_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[NodeConfig] = []

    async def run_node(config: NodeConfig, *_: Any, **__: Any) -> None:
        seen.append(config)

    monkeypatch.setattr(daemon, "run_node", run_node)
    flags = ["--data", str(tmp_path), "--upload-rate", "2", "--link", "8:16"]
    assert main(["node", *flags]) == 0
    assert seen[0].upload_rate == 2 << 20
    assert seen[0].link == (1e6, 2e6)
