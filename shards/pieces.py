"""A model of which some parts are here, each in a file of its own."""

import numpy as np
from numpy.typing import NDArray

from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.gguf_header import Header, Tensor, Value
from hearthring.shards.gguf_metadata import Metadata
from hearthring.shards.layer_store import LayerStore, OpenPart
from hearthring.shards.manifest import TEMPLATE as TEMPLATE_KEY
from hearthring.shards.manifest import unnamed
from hearthring.shards.parts import (
    TEMPLATE,
    TEXTS,
    TOKENIZER,
    all_parts,
    read_fields,
    read_text,
    tensors_of,
)


class GgufPieces(GgufFile):
    """Like a model file, for engines, ends and audits; what isn't here is a ``ModelNotHere``.

    Names, types and shapes of all tensors are known from the manifest. Nothing is copied: each
    part is mapped when it is first used, and no eviction takes it while this object lives. What
    is fetched later is found.
    """

    def __init__(self, store: LayerStore) -> None:
        self.path, self.shape, self.store = store.folder, store.manifest.shape, store
        self._part_of: dict[str, str] = {}
        self._held: dict[str, tuple[OpenPart, dict[str, NDArray[np.uint8]]]] = {}
        tensors: dict[str, Tensor] = {}
        for part in all_parts(store.manifest):
            for tensor in tensors_of(store.manifest, part):
                tensors[tensor.name] = tensor
                self._part_of[tensor.name] = part
        name = store.manifest.name  # some tokenizers' ways are told by it
        named: dict[str, Value] = {} if name == unnamed(self.shape) else {"general.name": name}
        self._header = Header(named, tensors)
        Metadata.__init__(self, self._header.fields, str(self.path))
        for part in TEXTS:
            if not store.missing((part,)):
                self.hold(part)

    def hold(self, part: str) -> None:
        """Keep a part from eviction from now on. Raises ``ModelNotHere``, ``BadModelFile``."""
        if part in self._held:
            return
        opened = self.store.open(part)
        views: dict[str, NDArray[np.uint8]] = {}
        if part == TOKENIZER:
            self._header.fields.update(read_fields(opened.bytes.whole()))
        elif part == TEMPLATE:
            text = read_text(opened.bytes.whole())
            if text is not None:
                self._header.fields[TEMPLATE_KEY] = text
        else:
            data = np.frombuffer(opened.map(), np.uint8)
            views = {t.name: data[t.offset : t.offset + t.size] for t in opened.places}
        self._held[part] = opened, views

    def raw(self, name: str) -> tuple[int, tuple[int, ...], NDArray[np.uint8]]:
        tensor = self._tensor(name)
        part = self._part_of[name]
        self.hold(part)
        return tensor.kind, tensor.shape, self._held[part][1][name]
