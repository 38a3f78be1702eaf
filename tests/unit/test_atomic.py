"""Files are written whole or not at all."""

import os
from pathlib import Path
from typing import IO

import pytest

from hearthring.shards.atomic import write_whole


def test_what_is_written_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    write_whole(path, lambda file: file.write(b"new"))
    assert (path.read_text(), os.listdir(tmp_path)) == ("new", ["file"])


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_breaks_off_leaves_the_old(tmp_path: Path, error: type[BaseException]) -> None:
    def write(file: IO[bytes]) -> None:
        file.write(b"ne")
        raise error

    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error):
        write_whole(path, write)
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["file"])


def test_an_interruption_behind_the_renaming_is_what_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.replace

    def interrupted(old: str, new: Path) -> None:
        rename(old, new)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", lambda file: file.write(b"new"))
    assert (tmp_path / "file").read_text() == "new"
