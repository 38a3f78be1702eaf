"""The manifest of a model: what it is, as hashes. Its own hash is the model id.

Two files with the same weights, tokenizer, template and name have the same id wherever they lie;
nothing of a path, a time or a machine goes into a manifest.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import Field, asdict, dataclass, fields
from typing import Any, Final, get_args

import numpy as np

from hearthring.protocol.errors import BadModelFile
from hearthring.protocol.limits import LIMITS
from hearthring.protocol.tensors import Residual
from hearthring.shards.families import EMBEDDING, family, head_tensors, layer_tensors
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.gguf_header import KINDS, Value
from hearthring.shards.shape import Shape

FORMAT: Final = 3
TEMPLATE: Final = "tokenizer.chat_template"
EARLY_EXIT: Final = "hearthring.early_exit"
"""Metadata of a file, beside those that GGUF knows: see ``Manifest.early_exit``."""
_HEX: Final = frozenset("0123456789abcdef")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much is done."""


def quiet(label: str, done: int, total: int) -> None:
    """The ``Progress`` of somebody who doesn't look."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A model's identity. Hashes are SHA-256 in hex.

    ``layers[i]`` covers the tensors of layer i: name, type, shape and bytes of each, sorted by
    name. ``embedding`` covers the token embedding; ``head`` the final norm, and the output matrix
    unless it is the embedding. ``tokenizer`` covers every tokenizer field of the file but the
    chat template, which has ``chat_template`` for itself. ``types[i]`` and ``head_types`` name the
    weight type of each of these tensors, in the same order: with the shape they tell how many
    bytes a part has before anybody sends one. ``residual`` is the type that the residual stream
    travels in unless somebody asks for another (``shards/residual.py``). ``early_exit``: the model
    was trained to be read after so many of its layers, too (LayerSkip, arXiv 2404.16710); 0: it
    wasn't, and then the key stands in no JSON, so that ids stay.
    """

    name: str
    shape: Shape
    layers: tuple[str, ...]
    types: tuple[tuple[str, ...], ...]
    embedding: str
    embedding_type: str
    head: str
    head_types: tuple[str, ...]
    tokenizer: str
    chat_template: str
    file_type: int
    residual: Residual
    format: int = FORMAT
    early_exit: int = 0

    @property
    def model_id(self) -> str:
        """SHA-256 of ``to_json()``, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, ASCII. Equal manifests give equal text."""
        found = asdict(self) | {"shape": self.shape.plain()}
        if not self.early_exit:
            del found["early_exit"]
        return canonical(found)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """The manifest that ``to_json`` wrote.

        Raises ``BadModelFile`` for anything else: other fields, types, formats or spacing.
        """
        try:
            if len(text) > LIMITS.manifest_bytes:
                raise ValueError("it is too long")
            manifest = cls(**_fields(json.loads(text)))
            written = text if isinstance(text, str) else text.decode()
            if manifest.to_json() != written:
                raise ValueError("it isn't canonical")
        except (BadModelFile, ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadModelFile(f"the manifest doesn't parse: {error}") from None
        return manifest


def build(gguf: GgufFile, progress: Progress = quiet) -> Manifest:
    """Hash a whole model file, and measure its residuals.

    Raises ``BadModelFile``, ``EngineUnavailable`` for layers that no engine can run.
    """
    from hearthring.shards.residual import residual_type  # it needs a tokenizer and an engine

    shape = gguf.shape
    parts = [gguf.layer_names(layer) for layer in range(shape.layers)]
    head = tuple(sorted(head_tensors(shape)))
    total = sum(gguf.raw(name)[2].size for name in gguf.tensor_names())
    done = 0

    def digest(names: Iterable[str]) -> str:
        nonlocal done
        hashed = hashlib.sha256()
        for name in names:
            kind, dims, data = gguf.raw(name)
            hashed.update(tensor_line(name, kind, dims, data.size))
            hashed.update(data.data)
            done += data.size
            progress("hashing", done, total)
        return hashed.hexdigest()

    named = gguf.text("general.name") or unnamed(shape)
    return Manifest(
        name="".join(c for c in named if c.isprintable())[: LIMITS.name_chars],
        shape=shape,
        layers=tuple(digest(names) for names in parts),
        types=tuple(_types(gguf, names) for names in parts),
        embedding=digest([EMBEDDING]),
        embedding_type=gguf.type_name(EMBEDDING),
        head=digest(head),
        head_types=_types(gguf, head),
        tokenizer=hashlib.sha256(tokenizer_json(gguf)).hexdigest(),
        chat_template=hashlib.sha256(template_json(gguf)).hexdigest(),
        file_type=gguf.integer("general.file_type") or 0,
        residual=residual_type(gguf, progress),
        early_exit=gguf.integer(EARLY_EXIT, 1, max(1, shape.layers - 1)) or 0,
    )


def unnamed(shape: Shape) -> str:
    """What a model is called whose file has no name for it."""
    return f"{shape.architecture} {shape.layers}x{shape.width}"


def tokenizer_json(gguf: GgufFile) -> bytes:
    """Every tokenizer field but the chat template, as the manifest hashes it."""
    found = gguf.fields("tokenizer.")
    found.pop(TEMPLATE, None)
    return canonical({key: _plain(value) for key, value in found.items()}).encode()


def template_json(gguf: GgufFile) -> bytes:
    """The chat template, or ``null``, as the manifest hashes it."""
    return canonical(gguf.text(TEMPLATE)).encode()


def tensor_line(name: str, kind: int, dims: tuple[int, ...], size: int) -> bytes:
    """What a hash covers of a tensor before its bytes."""
    return canonical([name, kind, dims, size]).encode() + b"\n"


def canonical(value: object) -> str:
    """JSON with sorted keys, no spaces and ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _plain(value: Value) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _types(gguf: GgufFile, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(gguf.type_name(name) for name in names)


def _fields(found: Any) -> dict[str, Any]:
    """Arguments of ``Manifest``, each of its exact type."""
    wanted = {field.name for field in fields(Manifest)}
    if not isinstance(found, dict) or found.keys() | {"early_exit"} != wanted:
        raise ValueError("its fields aren't those of a manifest")
    if type(found["format"]) is not int or found["format"] != FORMAT:
        raise ValueError(f"format {found['format']!r:.20} isn't known, only {FORMAT}")
    shape = _shape(found["shape"])
    layers = tuple(_sha256(item) for item in _list(found["layers"], shape.layers))
    types = tuple(
        _kinds(item, len(layer_tensors(shape, layer)))
        for layer, item in enumerate(_list(found["types"], shape.layers))
    )
    hashes = {key: _sha256(found[key]) for key in ("embedding", "head", "tokenizer")}
    if type(found["file_type"]) is not int or found["file_type"] < 0:
        raise ValueError("its file_type isn't a number")
    early = found.get("early_exit", 1)
    if type(early) is not int or not 0 < early < max(2, shape.layers):
        raise ValueError("its early_exit isn't one of its layers")
    return (
        found
        | hashes
        | {
            "name": _text(found["name"]),
            "shape": shape,
            "layers": layers,
            "types": types,
            "embedding_type": _kinds([found["embedding_type"]], 1)[0],
            "residual": Residual(found["residual"]),
            "head_types": _kinds(found["head_types"], len(head_tensors(shape))),
            "chat_template": _sha256(found["chat_template"]),
        }
    )


def _shape(found: Any) -> Shape:
    known = {field.name: field for field in fields(Shape)}
    needed = {name for name, field in known.items() if not field.kw_only}
    if not isinstance(found, dict) or not needed <= found.keys() <= known.keys():
        raise ValueError("its shape has other fields")
    shape = Shape(**{name: _number(value, known[name]) for name, value in found.items()})
    family(shape.architecture)
    return shape


def _number(value: Any, field: Field[Any]) -> Any:
    """A value of exactly the field's type; ``Shape`` itself looks at its range."""
    listed = get_args(field.type)
    if listed and type(value) is list and all(type(item) is listed[0] for item in value):
        return tuple(value)
    if listed or type(value) is not field.type:
        raise ValueError(f"{field.name} of its shape isn't of type {field.type}")
    return value


def _list(found: Any, length: int) -> list[Any]:
    if not isinstance(found, list) or len(found) != length:
        raise ValueError("its layers aren't as many as its shape says")
    return found


def _kinds(found: Any, length: int) -> tuple[str, ...]:
    known = isinstance(found, list) and len(found) == length
    if not known or not all(isinstance(item, str) and item in KINDS for item in found):
        raise ValueError("its weight types aren't one known type for each tensor")
    return tuple(found)


def _text(found: Any) -> str:
    if not isinstance(found, str) or len(found) > LIMITS.name_chars or not found.isprintable():
        raise ValueError("it has a text that is none, too long, or not to be printed")
    return found


def _sha256(found: Any) -> str:
    if not isinstance(found, str) or len(found) != 64 or not set(found) <= _HEX:
        raise ValueError("it has a hash that is none")
    return found
