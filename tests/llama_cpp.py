"""llama.cpp's own tokenizer as an oracle, through the C API that the xllamacpp wheel exports.

``llama_model_params`` goes by value and has grown with every version, so it is passed as a block
larger than any of them: the callee reads the part it knows.
"""

import ctypes as c
from pathlib import Path

import xllamacpp


class _Params(c.Structure):
    _fields_ = (("block", c.c_ubyte * 1024),)


_Log = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)


@_Log
def _silent(level: int, text: bytes, data: object) -> None:
    """Drop what llama.cpp logs; the module keeps the callback alive."""


class LlamaVocabulary:
    """The vocabulary of a model file, as llama.cpp reads it."""

    def __init__(self, path: Path) -> None:
        lib = c.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("*.so"))))
        lib.llama_log_set(_silent, None)
        lib.llama_model_default_params.restype = _Params
        lib.llama_model_load_from_file.argtypes = [c.c_char_p, _Params]
        lib.llama_model_load_from_file.restype = c.c_void_p
        lib.llama_model_get_vocab.argtypes = [c.c_void_p]
        lib.llama_model_get_vocab.restype = c.c_void_p
        lib.llama_model_free.argtypes = [c.c_void_p]
        lib.llama_model_free.restype = None
        lib.llama_vocab_n_tokens.argtypes = [c.c_void_p]
        lib.llama_vocab_is_eog.argtypes = [c.c_void_p, c.c_int32]
        lib.llama_vocab_is_eog.restype = c.c_bool
        ids = c.POINTER(c.c_int32)
        lib.llama_tokenize.argtypes = [
            *(c.c_void_p, c.c_char_p, c.c_int32, ids, c.c_int32, c.c_bool, c.c_bool),
        ]
        self._lib = lib
        self._model = lib.llama_model_load_from_file(
            str(path).encode(), lib.llama_model_default_params()
        )
        assert self._model, f"llama.cpp doesn't load {path}"
        self._vocabulary = lib.llama_model_get_vocab(self._model)

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self._lib.llama_model_free(self._model)

    def encode(self, text: str, *, specials: bool) -> list[int]:
        """Ids without an added bos or eos."""
        data = text.encode()
        room = len(data) + 1
        ids = (c.c_int32 * room)()
        count = self._lib.llama_tokenize(
            self._vocabulary, data, len(data), ids, room, False, specials
        )
        assert 0 <= count <= room
        return list(ids[:count])

    def ends(self) -> set[int]:
        """Ids that end a generation."""
        count = self._lib.llama_vocab_n_tokens(self._vocabulary)
        return {i for i in range(count) if self._lib.llama_vocab_is_eog(self._vocabulary, i)}
