"""How gRPC is told to read: where it knows the words, while it is loaded, against no user."""

import os

import pytest

from hearthring.protocol.grpc_loading import DIRECT, SETTING, reading_directly


@pytest.mark.parametrize(
    ("release", "own", "seen"),
    [
        ("1.85.3", None, DIRECT),
        ("1.85.3", "tcp_rcv_lowat", "tcp_rcv_lowat"),
        ("1.85.3", "", ""),
        ("1.71.2", None, None),
        ("1.850.0", None, None),
    ],
)
def test_only_while_loading(
    monkeypatch: pytest.MonkeyPatch, release: str, own: str | None, seen: str | None
) -> None:
    monkeypatch.delenv(SETTING, raising=False)
    if own is not None:
        monkeypatch.setenv(SETTING, own)
    with reading_directly(release):
        assert os.environ.get(SETTING) == seen
    assert os.environ.get(SETTING) == own
    with pytest.raises(ImportError), reading_directly(release):
        raise ImportError("no gRPC")
    assert os.environ.get(SETTING) == own
