"""What the model store remembers of files, and how its folder is read and written."""

import json
import re
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from hearthring.protocol.errors import BadModelFile, BadOption
from hearthring.shards.atomic import locked as held
from hearthring.shards.atomic import replace_whole
from hearthring.shards.manifest import FORMAT, Manifest

ENVIRONMENT = "HEARTHRING_MODELS"
INDEX = f"index-{FORMAT}.json"
INDEX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Seen:
    """What the store remembers of a file: a file that still looks so isn't hashed again."""

    model_id: str
    size: int
    mtime_ns: int
    source: str = ""
    """What the file was made of, for a file that was made here."""
    name: str = ""
    """What the user calls the model."""
    context: int = 0
    """Tokens that it is used with at most; 0: as many as it takes."""

    @property
    def stamp(self) -> tuple[int, int]:
        """Size and time, as ``GgufFile.stamp``."""
        return self.size, self.mtime_ns


class StoreIndex:
    """The index of the store in ``root``, and the manifests it keeps.

    Every method may raise ``BadOption`` when the folder can't be used, and ``BadModelFile`` when
    what is kept in it is damaged.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._path = root / INDEX

    def files(self) -> dict[str, Seen]:
        """What is known of model files, by path; they may be gone."""
        if not self._path.exists():
            return {}
        try:
            found = {key: Seen(**value) for key, value in json.loads(self.read(self._path)).items()}
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise damaged(self._path) from None
        for seen in found.values():
            numbers = {type(seen.size), type(seen.mtime_ns), type(seen.context)} == {int}
            texts = isinstance(seen.source, str) and isinstance(seen.name, str)
            if not numbers or not texts or not re.fullmatch("[0-9a-f]{64}", str(seen.model_id)):
                raise damaged(self._path)
        return found

    def remember(self, path: Path, seen: Seen) -> None:
        """Add a file. Its manifest is kept before; the caller holds ``lock``."""
        index = self.files() | {str(path): seen}
        listed = {key: asdict(value) for key, value in index.items()}
        self.write(self._path, json.dumps(listed, indent=1))

    def has_manifest(self, model_id: str) -> bool:
        """Whether a model's manifest is kept."""
        return self._manifest(model_id).exists()

    def manifest(self, model_id: str) -> Manifest:
        """A manifest that is kept."""
        kept = self._manifest(model_id)
        manifest = Manifest.from_json(self.read(kept))
        if manifest.model_id != model_id:
            raise damaged(kept)
        return manifest

    def keep(self, manifest: Manifest) -> None:
        """Keep a manifest."""
        self.write(self._manifest(manifest.model_id), manifest.to_json())

    def _manifest(self, model_id: str) -> Path:
        return self.root / "manifests" / f"{model_id}.json"

    def read(self, path: Path) -> bytes:
        """A file of the folder."""
        try:
            with path.open("rb") as file:
                return file.read(INDEX_BYTES)
        except OSError:
            raise damaged(path) from None

    def write(self, path: Path, text: str) -> None:
        """Replace a file of the folder whole."""
        try:
            path.parent.mkdir(exist_ok=True)
            replace_whole(path, text)
        except OSError as error:
            raise self.unusable(error) from None

    def locked(self, name: str) -> AbstractContextManager[None]:
        """While this is held, other processes wait for the lock of this name."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return held(self.root / name)
        except OSError as error:
            raise self.unusable(error) from None

    def unusable(self, error: OSError) -> BadOption:
        """What to raise when the folder can't be written."""
        return BadOption(
            f"the models folder {self.root} can't be written: {error.strerror}",
            field=ENVIRONMENT,
            mend=f"set {ENVIRONMENT} to a folder of yours",
        )


def stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of a file, None when it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def damaged(path: Path) -> BadModelFile:
    """What to raise when a file of the folder doesn't hold what it should."""
    return BadModelFile(
        "this file of the models folder is damaged",
        field=str(path),
        mend=f"remove {INDEX} and import the models again; no model file is lost",
    )
