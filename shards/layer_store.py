"""Parts of one model on this disk: a GGUF file per layer, and how a new one gets there.

A part is written under another name and takes its own only when its SHA-256 is the manifest's, so
whatever bears a part's name is right. What was written before a kill is found again. Whoever uses
a file holds a shared lock on it, whoever writes one an exclusive lock; the eviction of
``shards/disk.py`` takes nothing that is locked.
"""

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Final, Self

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from hearthring.protocol.errors import BadModelFile, DiskFull, ModelNotHere
from hearthring.protocol.limits import LIMITS
from hearthring.shards.atomic import sync_folder
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.gguf_header import Tensor, read_header
from hearthring.shards.manifest import Manifest, template_json, tokenizer_json
from hearthring.shards.parts import (
    TEMPLATE,
    TEXTS,
    TOKENIZER,
    Extent,
    PartBytes,
    all_parts,
    piece_bounds,
    sha256_of,
    tensors_of,
)

ENVIRONMENT: Final = "HEARTHRING_MODELS"
COMING: Final = ".coming"
"""How the name of a file ends that isn't whole yet."""
ALIGNMENT: Final = 32


class LayerStore:
    """The folder of one model's parts. It is made when the first part is."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    def path(self, part: str) -> Path:
        """Where a part is, or will be."""
        return self.folder / (f"{part}.json" if part in TEXTS else f"{part}.gguf")

    def here(self) -> tuple[str, ...]:
        """The parts that are here, in the order of ``all_parts``."""
        try:
            names = set(os.listdir(self.folder))
        except OSError:
            return ()
        return tuple(part for part in all_parts(self.manifest) if self.path(part).name in names)

    def missing(self, wanted: Iterable[str]) -> tuple[str, ...]:
        """Those of the wanted parts that aren't here."""
        here = set(self.here())
        return tuple(part for part in wanted if part not in here)

    def bytes(self) -> int:
        """Bytes of all parts that are here."""
        return sum(self.path(part).stat().st_size for part in self.here())

    def open(self, part: str) -> "OpenPart":
        """Open a part and keep it from eviction until it is closed. Raises ``ModelNotHere``."""
        return OpenPart(self, part)

    def begin(self, part: str, size: int) -> "ComingPart | None":
        """Begin, or go on with, a part of ``size`` bytes.

        ``None`` while another process has it in hand, or has just made it; ask again, it may be
        whole then. Raises ``DiskFull``.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self.coming(part), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _full(self.folder, error) from None
        try:
            if _lock(file, fcntl.LOCK_EX) and _is_still(file, self.coming(part)):
                if self.missing((part,)):
                    return ComingPart(self, part, size, file)
                os.unlink(self.coming(part))  # ours, and empty: the other's has its name by now
        except OSError as error:
            os.close(file)
            raise _full(self.folder, error) from None
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        return None

    def coming(self, part: str) -> Path:
        """Where a part is written until it is whole."""
        return self.path(part).with_name(self.path(part).name + COMING)

    def stirred(self, part: str) -> int | None:
        """When bytes of a part were last written, in nanoseconds; ``None`` while none are coming.

        Two answers that differ tell that whoever has it in hand gets on.
        """
        try:
            return self.coming(part).stat().st_mtime_ns
        except OSError:
            return None


class OpenPart:
    """A part that is here: its file, locked as long as this lives, and its bytes."""

    def __init__(self, store: LayerStore, part: str) -> None:
        self.path, self.file = store.path(part), -1
        try:
            self.file = os.open(self.path, os.O_RDONLY)
        except OSError:
            raise ModelNotHere(
                f"{part} of {store.manifest.name} isn't on this machine",
                field=str(store.folder),
                mend="give --join to fetch it from the swarm",
            ) from None
        try:
            if not (_lock(self.file, fcntl.LOCK_SH) and _is_still(self.file, self.path)):
                raise ModelNotHere(f"{part} was just evicted", field=str(self.path))
            status = os.fstat(self.file)
            with contextlib.suppress(OSError):  # eviction takes what was used the longest ago
                os.utime(self.path, ns=(time.time_ns(), status.st_mtime_ns))
            self.places = _places(store.manifest, part, self.file)
        except BaseException:
            self.close()
            raise
        self.bytes = (
            PartBytes.of_tensors(self.places, self.file)
            if self.places
            else PartBytes([Extent(0, status.st_size)], self.file)
        )

    def map(self) -> mmap:
        """The whole file, mapped."""
        return mmap(self.file, 0, access=ACCESS_READ)

    def close(self) -> None:
        """Let go of it. Idempotent; maps stay good."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1

    def __enter__(self) -> Self:
        """The part itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of it."""
        self.close()

    def __del__(self) -> None:  # noqa: D105
        self.close()


class FileParts:
    """The parts of a whole model file, as ``LayerStore`` shows those of a folder.

    Raises ``ModelNotHere`` for a file that was moved, removed or closed to us since it was opened.
    """

    def __init__(self, gguf: GgufFile, manifest: Manifest) -> None:
        self.manifest = manifest
        self._gguf, self._file = gguf, -1
        try:
            self._file = os.open(gguf.path, os.O_RDONLY)
        except OSError as error:
            raise ModelNotHere(
                f"the file of {manifest.name} can't be read: "
                f"{(error.strerror or str(error)).lower()}",
                field=str(gguf.path),
                mend="put it back, or import the model again",
            ) from None

    def here(self) -> tuple[str, ...]:
        """All parts."""
        return all_parts(self.manifest)

    def open(self, part: str) -> "FilePart":
        """A part of the file. Raises ``ModelNotHere`` for an unknown name."""
        if part == TOKENIZER:
            return FilePart(self, PartBytes([tokenizer_json(self._gguf)]))
        if part == TEMPLATE:
            return FilePart(self, PartBytes([template_json(self._gguf)]))
        tensors = tensors_of(self.manifest, part)
        places = [self._gguf.tensor(tensor.name) for tensor in tensors]
        return FilePart(self, PartBytes.of_tensors(places, self._file))

    def __del__(self) -> None:  # noqa: D105
        if self._file >= 0:
            os.close(self._file)


@dataclass(frozen=True, slots=True)
class FilePart:
    """A part of a file that stays open for as long as this is used: leaving it does nothing."""

    file: FileParts
    bytes: PartBytes

    def __enter__(self) -> Self:
        """The part itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to let go of."""


class ComingPart:
    """A part that is being written, by this process alone. ``size`` is what it will have."""

    def __init__(self, store: LayerStore, part: str, size: int, file: int) -> None:
        self._store, self._part, self._file = store, part, -1
        self._lock = threading.Lock()  # a cancelled caller closes while its thread may still write
        self._fresh = os.fstat(file).st_size == 0
        if part in TEXTS:
            os.truncate(file, size)
            self.bytes = PartBytes([Extent(0, size)], file)
        else:
            try:
                places = _places(store.manifest, part, file)
            except BadModelFile:  # nothing is there yet, or a kill left half a header
                self._fresh = True
                _lay_out(store.manifest, part, store.coming(part), file)
                places = _places(store.manifest, part, file)
            self.bytes = PartBytes.of_tensors(places, file)
            assert self.bytes.size == size
        self._file = file  # ours to close from here on

    def lacks(self, hashes: tuple[bytes, ...]) -> list[int]:
        """The pieces that aren't what these hashes say: after a kill, those still to come."""
        if self._fresh:
            return list(range(len(hashes)))
        bounds = (piece_bounds(self.bytes.size, index) for index in range(len(hashes)))
        found = (hashlib.sha256(self.bytes.read(*bound)).digest() for bound in bounds)
        return [
            i for i, (mine, wanted) in enumerate(zip(found, hashes, strict=True)) if mine != wanted
        ]

    def write(self, index: int, data: bytes) -> None:
        """Put a piece to its place. Raises ``DiskFull``."""
        try:
            with self._lock:
                if self._file >= 0:
                    self._fresh = False
                    self.bytes.write(index * LIMITS.piece_bytes, data)
        except OSError as error:
            raise _full(self._store.folder, error) from None

    def finish(self) -> bool:
        """Give the part its name if it is what the manifest says; otherwise forget its bytes.

        When this returns true the part is on the disk. Raises ``DiskFull``.
        """
        with self._lock:
            return self._file >= 0 and self._finish()

    def _finish(self) -> bool:
        digest = hashlib.sha256()
        for chunk in self.bytes.chunks(LIMITS.piece_bytes):
            digest.update(chunk)
        if digest.hexdigest() != sha256_of(self._store.manifest, self._part):
            self._fresh = True
            return False
        try:
            os.fsync(self._file)
            os.fchmod(self._file, 0o444)
            os.replace(self._store.coming(self._part), self._store.path(self._part))
            sync_folder(self._store.folder)
        except OSError as error:
            raise _full(self._store.folder, error) from None
        return True

    def close(self) -> None:
        """Let another process go on; what was written stays. Idempotent.

        Waits for a thread that is at ``write`` or ``finish``.
        """
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def __del__(self) -> None:  # noqa: D105 -- begun on a thread for who was cancelled meanwhile
        if hasattr(self, "_lock"):
            self.close()


def _lay_out(manifest: Manifest, part: str, path: Path, file: int) -> None:
    """Make ``path``, open as ``file``, a GGUF file of the part's tensors with no weights in it."""
    tensors = tensors_of(manifest, part)
    writer = GGUFWriter(path, manifest.shape.architecture)
    writer.add_name(manifest.name)
    writer.add_string("hearthring.model", manifest.model_id)
    writer.add_string("hearthring.part", part)
    for t in tensors:
        kind = GGMLQuantizationType(t.kind)
        writer.add_tensor_info(t.name, t.shape, np.dtype(np.float32), t.size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    begin = os.fstat(file).st_size
    os.truncate(
        file, begin + -begin % ALIGNMENT + sum(t.size + -t.size % ALIGNMENT for t in tensors)
    )


def _places(manifest: Manifest, part: str, file: int) -> tuple[Tensor, ...]:
    """Where the part's tensors lie in its file. Raises ``BadModelFile`` for any other file."""
    wanted = tensors_of(manifest, part)
    if not wanted:
        return ()
    try:
        with mmap(file, 0, access=ACCESS_READ) as data:
            found = read_header(data).tensors
    except (OSError, ValueError):  # ValueError: an empty file
        raise BadModelFile(f"the file of {part} is empty or can't be read") from None
    places = tuple(found[t.name] for t in wanted if t.name in found)
    if len(places) != len(found) or any(
        (p.name, p.kind, p.shape, p.size) != (t.name, t.kind, t.shape, t.size)
        for p, t in zip(places, wanted, strict=False)
    ):
        raise BadModelFile(f"the file of {part} holds other tensors")
    return places


def _lock(file: int, how: int) -> bool:
    """Lock without waiting; whether that worked."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_still(file: int, path: Path) -> bool:
    """Whether ``path`` is the file that was opened: it may have been replaced before the lock."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _full(folder: Path, error: OSError) -> DiskFull:
    return DiskFull(
        f"{folder} can't be written: {(error.strerror or str(error)).lower()}",
        field=ENVIRONMENT,
        mend=f"make room, or set {ENVIRONMENT} to another folder",
    )
