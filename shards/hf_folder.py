"""A Hugging Face folder: its configuration and its weights, checked before anything uses them.

A folder may come from anywhere: files are read up to a bound, an index can't name files outside,
and what isn't plain safetensors weights (pickles, adapters, weights packed in another way) is
refused with the reason.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any, Final

from hearthring.protocol.errors import BadModelFile
from hearthring.protocol.tensors import F32
from hearthring.shards.safetensors_file import SafetensorsFile, Stored, refuse_pickle

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
WHOLE: Final = "model.safetensors"
MAX_FILES: Final = 1 << 10
_JSON_BYTES: Final = {CONFIG: 1 << 20, INDEX: 32 << 20, "tokenizer.json": 96 << 20}
_OTHER_BYTES: Final = 8 << 20


class HfFolder:
    """An opened folder.

    ``config`` is the object in ``config.json``; ``tensors`` what each weight is stored as. Raises
    ``BadModelFile`` naming the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        config = read_json(path / CONFIG)
        if config is None:
            raise BadModelFile("there is no config.json in this folder", field=str(path))
        if config.get("quantization_config") is not None:
            raise BadModelFile(
                "the weights are packed by another quantiser",
                field=str(path / CONFIG),
                mend="take the model's original weights, and `--quantise` them here",
            )
        self.config = config
        self._files = _files(path)
        self.tensors: dict[str, Stored] = {}
        self._home: dict[str, SafetensorsFile] = {}
        for file in self._files:
            for name, stored in file.tensors.items():
                if name in self.tensors:
                    raise BadModelFile(f"tensor {name!r:.200} is in two files", field=str(path))
                self.tensors[name], self._home[name] = stored, file

    def rows(self, name: str, start: int, stop: int) -> F32:
        """Rows of a tensor in ``tensors``, as ``SafetensorsFile.rows``."""
        return self._home[name].rows(name, start, stop)

    def stamp(self) -> list[tuple[str, int, int]]:
        """Name, size and time of every file in the folder: what tells whether it changed."""
        return folder_stamp(self.path)


def folder_stamp(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of every file in a folder, sorted. Raises ``BadModelFile``."""
    try:
        with os.scandir(path) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
    except OSError as error:
        raise BadModelFile(f"it can't be read: {error.strerror}", field=str(path)) from None
    return sorted((name, status.st_size, status.st_mtime_ns) for name, status in found)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file of the folder; ``None`` without the file.

    Raises ``BadModelFile`` for a file that is too large, isn't JSON or holds something else.
    """
    text = read_text(path)
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else str(error)
        raise BadModelFile(f"this isn't JSON: {reason:.200}", field=str(path)) from None
    if not isinstance(found, dict):
        raise BadModelFile("this isn't a JSON object", field=str(path))
    return found


def read_text(path: Path) -> str | None:
    """The text in a file of the folder; ``None`` without the file. Raises ``BadModelFile``."""
    most = _JSON_BYTES.get(path.name, _OTHER_BYTES)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadModelFile("this isn't a regular file", field=str(path))
        if status.st_size > most:
            raise BadModelFile(
                f"{status.st_size} bytes are too many (at most {most})", field=str(path)
            )
        with path.open("rb") as file:
            return file.read(most).decode()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadModelFile(f"it can't be read: {error.strerror}", field=str(path)) from None
    except UnicodeDecodeError:
        raise BadModelFile("this isn't UTF-8", field=str(path)) from None


def _files(path: Path) -> list[SafetensorsFile]:
    index = read_json(path / INDEX)
    if index is not None:
        return _indexed(path, index)
    if (path / WHOLE).exists():
        return [SafetensorsFile(path / WHOLE)]
    for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"):
        if pickles := sorted(path.glob(pattern)):
            raise refuse_pickle(pickles[0])
    if (path / "adapter_config.json").exists():
        raise BadModelFile(
            "this is an adapter, not a model", field=str(path), mend="merge it into its base first"
        )
    raise BadModelFile(f"there is neither {WHOLE} nor {INDEX} in this folder", field=str(path))


def _indexed(path: Path, index: dict[str, Any]) -> list[SafetensorsFile]:
    weights = index.get("weight_map")
    field = str(path / INDEX)
    if not isinstance(weights, dict) or not weights:
        raise BadModelFile("weight_map is missing", field=field)
    promised: dict[str, set[str]] = {}
    for tensor, name in weights.items():
        plain = isinstance(name, str) and name == os.path.basename(name) and "\0" not in name
        if not plain or not name.endswith(".safetensors"):
            raise BadModelFile(f"{name!r:.80} isn't a safetensors file beside it", field=field)
        promised.setdefault(name, set()).add(tensor)
    if len(promised) > MAX_FILES:
        raise BadModelFile(f"{len(promised)} files are too many (at most {MAX_FILES})", field=field)
    files = []
    for name, tensors in sorted(promised.items()):
        file = SafetensorsFile(path / name)
        if tensors != file.tensors.keys():
            odd = min(tensors ^ file.tensors.keys())
            raise BadModelFile(f"it and {name} disagree about tensor {odd!r:.200}", field=field)
        files.append(file)
    return files
