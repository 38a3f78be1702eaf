"""Options of a node that are read from text, and that they reach its configuration."""

from pathlib import Path
from typing import Any

import pytest

from hearthring.cli import main
from hearthring.node import daemon
from hearthring.node.config import NodeConfig, read_link
from hearthring.protocol.errors import BadOption


def test_a_link_is_read_in_megabits() -> None:
    assert read_link("40:100") == (5e6, 12.5e6)
    assert read_link("0.8:1.6") == (1e5, 2e5)


@pytest.mark.parametrize(
    "text", ["", "40", "40:", "a:b", "0:1", "1:0", "-1:5", "1:2:3", "nan:1", "1:inf"]
)
def test_what_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(BadOption, match="UP:DOWN"):
        read_link(text)


def test_rates_reach_the_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[NodeConfig] = []

    async def run_node(config: NodeConfig, *_: Any, **__: Any) -> None:
        seen.append(config)

    monkeypatch.setattr(daemon, "run_node", run_node)
    flags = ["--data", str(tmp_path), "--upload-rate", "2", "--link", "8:16"]
    assert main(["node", *flags]) == 0
    assert seen[0].upload_rate == 2 << 20
    assert seen[0].link == (1e6, 2e6)
