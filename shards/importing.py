"""Taking models in: whatever a user names becomes one checked GGUF file in the store.

A GGUF file is used where it lies. Everything else (a Hugging Face folder, a model of the hub, a
file that is to have other types) is converted once into the store's ``files/``; asking again finds
what was made, as long as its source looks as it did.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from hearthring.protocol.errors import BadModelFile, BadOption, UnknownModel
from hearthring.protocol.limits import LIMITS
from hearthring.shards.alias import ALIASES
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.hf_folder import folder_stamp
from hearthring.shards.hf_import import convert_folder, requantise
from hearthring.shards.hub import HubName, download, hub_name
from hearthring.shards.manifest import Progress, quiet
from hearthring.shards.quantise import known_type
from hearthring.shards.store import KNOWN, ModelEntry, ModelStore, real_path


class How(NamedTuple):
    """What to make of a model: types, name and context, where the user has a wish."""

    quantise: str | None
    name: str | None
    context: int | None


WHATEVER = How(None, None, None)


def import_model(
    store: ModelStore,
    source: str,
    *,
    quantise: str | None = None,
    name: str | None = None,
    context: int | None = None,
    progress: Progress = quiet,
) -> ModelEntry:
    """Take in ``source``: an alias, a GGUF file, a Hugging Face folder, ``org/name`` of the hub or
    ``org/name:file.gguf``.

    ``quantise`` is one of ``TYPES``; ``name`` is what the model is called here; ``context`` is with
    how many tokens it is used at most: by default as before, or as many as it takes. Raises
    ``BadOption`` for those, ``UnknownModel`` when there is no such source, ``BadModelFile`` when it
    is no model, ``ModelNotHere`` when it can't be fetched or written now. The store is then as it
    was, except that a broken download is gone on with the next time.
    """
    wanted = known_type(quantise) if quantise else None
    if name is not None and not (name.isprintable() and 0 < len(name) <= LIMITS.name_chars):
        raise BadOption("this isn't a name of printable characters", field="name")
    how = How(wanted, name, context)
    if not source or "\0" in source:
        raise UnknownModel(f"there is no model {source!r:.200}", mend=KNOWN)
    if source in ALIASES:
        entry = store.import_alias(source, progress)
        return _file(store, entry.path, how, progress) if how != WHATEVER else entry
    path = real_path(Path(source))
    if path.is_dir():
        return _folder(store, path, how, progress)
    if os.path.lexists(path):
        return _file(store, path, how, progress)
    found = hub_name(source)
    if found is None:
        raise UnknownModel(f"there is no model {source!r:.200}", mend=KNOWN)
    return _hub(store, found, how, progress)


def _file(store: ModelStore, path: Path, how: How, progress: Progress) -> ModelEntry:
    quantise, name, context = how
    if quantise is None:
        return store.import_file(path, progress, name or "", context)
    gguf = GgufFile(path)
    called = name or f"{gguf.text('general.name') or path.stem} {quantise}"
    source = _digest("file", path, gguf.stamp, quantise, called, *_said(context))
    return store.make(
        source,
        called,
        lambda target: requantise(gguf, target, quantise, called, progress),
        progress,
        context,
    )


def _folder(store: ModelStore, path: Path, how: How, progress: Progress) -> ModelEntry:
    quantise, name, context = how
    called = name or path.name or "model"
    source = _digest("folder", path, folder_stamp(path), quantise, called, *_said(context))
    return store.make(
        source,
        called,
        lambda target: convert_folder(path, target, quantise, called, progress),
        progress,
        context,
    )


def _hub(store: ModelStore, hub: HubName, how: How, progress: Progress) -> ModelEntry:
    quantise, name, context = how
    called = name or str(hub)

    def write(target: Path) -> Path:
        folder = target.parent / "hub" / hub.repository.replace("/", "--")
        folder.mkdir(parents=True, exist_ok=True)
        found = download(hub, folder, progress)
        try:
            if found == folder:
                new = convert_folder(folder, target, quantise, called, progress)
            elif quantise:
                new = requantise(GgufFile(found), target, quantise, called, progress)
            else:
                new = Path(shutil.move(found, target / f".new-{found.name}"))
        except BadModelFile:  # what is kept would be found damaged again
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        return new

    source = _digest("hub", str(hub), quantise, called, *_said(context))
    return store.make(source, called, write, progress, context)


def _said(context: int | None) -> tuple[int, ...]:
    return () if context is None else (context,)


def _digest(*parts: object) -> str:
    """What tells one conversion from another."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
