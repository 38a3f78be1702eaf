"""The models of this user: which files there are, what they hold, and where.

A model file is used where it lies and never copied; the store keeps its manifest and remembers the
file's size and time, so that a file is hashed once. The folder holds an index (one per format of
manifests, so that releases share a folder), a manifest per model in ``manifests/``, files of
aliases and files that were made here in ``files/``, parts fetched from peers in a folder per model
in ``parts/`` (``shards/layer_store.py``), and three locks. Any number of processes may use it at
once: changes are made under a lock and files are replaced whole, so a reader, or a process killed
half-way, sees the old or the new and nothing in between.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from hearthring.protocol.errors import (
    BadModelFile,
    HearthringError,
    ModelNotHere,
    UnknownModel,
)
from hearthring.protocol.limits import LIMITS
from hearthring.shards.alias import ALIASES, Alias, fetch, holds
from hearthring.shards.disk import FOLDER as PARTS
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.gguf_output import clear
from hearthring.shards.layer_store import LayerStore
from hearthring.shards.manifest import Manifest, Progress, build, quiet
from hearthring.shards.pieces import GgufPieces
from hearthring.shards.store_index import ENVIRONMENT, INDEX, Seen, StoreIndex, stamp

_NAME = "name"
_ID = re.compile(r"[0-9a-f]{6,64}")
KNOWN = f"known by name: {', '.join(ALIASES)}; `hearthring model list` shows what is here"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that is here: whole, in a file, or in parts that were fetched from peers.

    ``name`` is its alias, the name in its file, or what the swarm it came from calls it. ``path``
    is the file, or the folder of the parts; only a file was ``seen``.
    """

    manifest: Manifest
    path: Path
    name: str
    model_id: str
    seen: Seen | None = None

    @property
    def whole(self) -> bool:
        """Whether it is a file with everything in it."""
        return self.seen is not None

    @property
    def parts(self) -> LayerStore:
        """The parts of a model that isn't whole."""
        return LayerStore(self.path, self.manifest)

    def missing(self, wanted: Iterable[str]) -> tuple[str, ...]:
        """Those of the wanted parts that aren't here."""
        return () if self.whole else self.parts.missing(wanted)

    def open(self) -> GgufFile:
        """Open what is here. A file that was touched since it was imported is hashed again.

        Raises ``BadModelFile`` when it holds another model now, ``UnknownModel`` when it is gone.
        """
        if self.seen is None:
            return GgufPieces(self.parts)
        gguf = GgufFile(self.path, self.seen.context or None)
        if gguf.stamp != self.seen.stamp and build(gguf).model_id != self.model_id:
            raise BadModelFile(
                "the file changed since it was imported",
                field=str(self.path),
                mend=f"import it again with `hearthring model import {self.path}`",
            )
        return gguf


class ModelStore:
    """The store in ``root``, by default ``$HEARTHRING_MODELS`` or the user's cache folder.

    Every method may raise ``BadOption`` when the folder can't be used, and ``BadModelFile`` when
    what is kept in it is damaged. A method that raises leaves the store as it was.
    """

    def __init__(self, root: Path | None = None) -> None:
        if root is None:
            set_by_user = os.environ.get(ENVIRONMENT)
            root = Path(set_by_user) if set_by_user else user_cache_path("hearthring") / "models"
        self.root = root.expanduser().absolute()
        self._index = StoreIndex(self.root)

    def list(self) -> list[ModelEntry]:
        """Models that are here, one entry for each, sorted by name: whole ones and parts."""
        self._take_over()
        entries: dict[str, ModelEntry] = {}
        for path, seen in self._index.files().items():
            if os.path.exists(path):
                entries.setdefault(seen.model_id, self._entry(path, seen))
        for folder in (self.root / PARTS).glob("*/"):
            if folder.name not in entries and self._index.has_manifest(folder.name):
                entries[folder.name] = self.by_parts(folder.name)
        return sorted(entries.values(), key=lambda entry: (entry.name, entry.model_id))

    def find(self, name: str, progress: Progress = quiet) -> ModelEntry:
        """A model by alias, by id or its beginning (6 digits at least), by name or by path.

        What isn't here yet is imported, from a path or from the hub. Raises ``UnknownModel`` for a
        name that nothing has or that several have, and what ``import_model`` raises.
        """
        if name in ALIASES:
            return self.import_alias(name, progress)
        return self._known(name) or self._import(name, progress)

    def here(self, name: str, progress: Progress = quiet) -> ModelEntry | None:
        """As ``find``, but nothing is downloaded: ``None`` for what isn't on this machine."""
        if name in ALIASES:
            seen = self._index.files().get(path := str(self._alias_path(ALIASES[name])))
            if seen is not None and seen.stamp == stamp(Path(path)):
                return self._entry(path, seen)
            found = [entry for entry in self.list() if entry.name == name]
            return found[0] if len(found) == 1 else None
        try:
            known = self._known(name)
            if known is None and name and os.path.exists(real_path(Path(name))):
                return self._import(name, progress)
        except (UnknownModel, ModelNotHere):
            return None
        return known

    def _known(self, name: str) -> ModelEntry | None:
        """A model that is here, by id or name."""
        here = self.list()
        by_id = _ID.fullmatch(name) is not None
        found = [entry for entry in here if by_id and entry.model_id.startswith(name)]
        found = found or [entry for entry in here if entry.name == name]
        if len(found) > 1:
            raise UnknownModel(
                f"{len(found)} models are meant by {name!r}", mend="give more of the model id"
            )
        gone = [p for p, s in self._index.files().items() if by_id and s.model_id.startswith(name)]
        if gone and not found:
            raise ModelNotHere(f"the file of {name} is gone: {gone[0]}", mend="import it again")
        return found[0] if found else None

    def _import(self, name: str, progress: Progress) -> ModelEntry:
        from hearthring.shards.importing import import_model  # it builds on this module

        return import_model(self, name, progress=progress)

    def adopt(self, manifest: Manifest, name: str) -> ModelEntry:
        """Make a model known of which parts will be fetched; the swarm calls it ``name``."""
        model_id = manifest.model_id
        with self._index.locked("lock"):
            self._index.keep(manifest)
            try:
                (self.root / PARTS / model_id).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._index.unusable(error) from None
            self._index.write(self.root / PARTS / model_id / _NAME, name)
        return self.by_parts(model_id)

    def by_parts(self, model_id: str) -> ModelEntry:
        """A model that was adopted. Raises ``BadModelFile``."""
        folder = self.root / PARTS / model_id
        manifest = self._index.manifest(model_id)
        name = manifest.name
        with contextlib.suppress(OSError, ValueError):
            name = (folder / _NAME).read_text()[: LIMITS.name_chars] or name
        return ModelEntry(manifest, folder, name, model_id)

    def import_file(
        self,
        path: Path,
        progress: Progress = quiet,
        name: str = "",
        context: int | None = None,
    ) -> ModelEntry:
        """Take a GGUF file in, hashing it unless it is known and looks as it did.

        ``name`` is what the user calls it from now on, ``context`` with how many tokens it is used
        (None: as before, or as many as it takes). Raises ``UnknownModel`` when there is no such
        path, ``BadModelFile`` when it is no model, ``BadOption`` for the context.
        """
        path = real_path(path)
        seen = self._index.files().get(str(path))
        if seen is not None and seen.stamp == stamp(path):
            if name in ("", seen.name) and context in (None, seen.context):
                return self._entry(str(path), seen)
            name = name or seen.name
            context = seen.context or None if context is None else context
        gguf = GgufFile(path, context)
        return self._remember(gguf, build(gguf, progress), "", name, context)

    def make(
        self,
        source: str,
        name: str,
        write: Callable[[Path], Path],
        progress: Progress = quiet,
        context: int | None = None,
    ) -> ModelEntry:
        """A model file made of something else: the one that is here, or a new one.

        ``source`` tells it from all others, by 64 hexadecimal digits. ``write`` puts a new file
        into the folder it is given, under a name that begins with ``.new-``, and returns its path;
        one process makes files at a time. ``context`` as in ``import_file``. Raises what ``write``
        raises; no file is left then.
        """
        with self._index.locked("import.lock"):
            for path, seen in self._index.files().items():
                if seen.source == source and seen.stamp == stamp(Path(path)):
                    return self._entry(path, seen)
            files = self.root / "files"
            try:
                files.mkdir(exist_ok=True)
                clear(files)
                new = write(files)
                try:
                    gguf = GgufFile(new, context)
                    manifest = build(gguf, progress)
                    stem = re.sub(r"[^\w.-]+", "-", name)[:80].strip("-.") or "model"
                    target = files / f"{stem}-{manifest.model_id[:8]}.gguf"
                    os.replace(new, target)
                except BaseException:
                    new.unlink(missing_ok=True)
                    raise
            except OSError as error:
                raise self._index.unusable(error) from None
            return self._remember(GgufFile(target, context), manifest, source, name, context)

    def _take_over(self) -> None:
        """Hash again the files in the indexes of other releases, whose manifests read otherwise."""
        known = self._index.files()
        for path in self.root.glob("index*.json"):
            with contextlib.suppress(ValueError, HearthringError):
                listed = json.loads(self._index.read(path)) if path.name != INDEX else {}
                for file in listed if isinstance(listed, dict) else ():
                    if file not in known and os.path.isfile(file):
                        self.import_file(Path(file))

    def _remember(
        self,
        gguf: GgufFile,
        manifest: Manifest,
        source: str,
        name: str,
        context: int | None = None,
    ) -> ModelEntry:
        path = str(gguf.path)
        seen = Seen(manifest.model_id, *gguf.stamp, source, name, context or 0)
        # A file that is still being written would be remembered with a hash it never had.
        if seen.stamp != stamp(gguf.path):
            raise BadModelFile("the file changed while it was read", field=path)
        with self._index.locked("lock"):
            self._index.keep(manifest)
            self._index.remember(gguf.path, seen)
        return self._entry(path, seen)

    def import_alias(self, name: str, progress: Progress = quiet) -> ModelEntry:
        """The model of an alias, downloaded unless it is here. Processes share one download.

        Raises ``UnknownModel`` for another name, ``ModelNotHere`` when it can't be downloaded.
        """
        alias = ALIASES.get(name)
        if alias is None:
            raise UnknownModel(f"there is no model {name!r:.200}", mend=KNOWN)
        path = self._alias_path(alias)
        seen = self._index.files().get(str(path))
        if seen is None or seen.stamp != stamp(path):
            with self._index.locked("download.lock"):
                seen = self._index.files().get(str(path))
                if seen is None or seen.stamp != stamp(path):
                    if not holds(path, alias.sha256):
                        fetch(alias, path, progress)
                    return self.import_file(path, progress)
        return self._entry(str(path), seen)

    def _alias_path(self, alias: Alias) -> Path:
        return real_path(self.root / "files" / alias.file_name)

    def _entry(self, path: str, seen: Seen) -> ModelEntry:
        manifest = self._index.manifest(seen.model_id)
        aliases = (a.name for a in ALIASES.values() if str(self._alias_path(a)) == path)
        name = next(aliases, seen.name or manifest.name)
        return ModelEntry(manifest, Path(path), name, seen.model_id, seen)


def real_path(path: Path) -> Path:
    """A path as the store keeps it: absolute, without links. Raises ``UnknownModel``."""
    try:
        return Path(os.path.realpath(os.path.expanduser(path)))
    except ValueError:  # a zero byte
        raise UnknownModel(f"{str(path)!r:.200} isn't a path") from None
