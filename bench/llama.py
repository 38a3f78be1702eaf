"""llama.cpp through its C API, as its library's defaults have it: the peer of ``engine.py``."""

import ctypes as c
import importlib.util
from pathlib import Path

import numpy as np


class Params(c.Structure):
    """Larger than any of llama.cpp's parameter blocks, which go by value."""

    _fields_ = (("block", c.c_ubyte * 1024),)


class Batch(c.Structure):
    """``struct llama_batch``."""

    _fields_ = (
        ("n_tokens", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        ("embd", c.c_void_p),
        ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)),
        ("seq_id", c.POINTER(c.POINTER(c.c_int32))),
        ("logits", c.POINTER(c.c_int8)),
    )


class Llama:
    """A loaded model with ``sequences`` sequences of ``context`` tokens each."""

    def __init__(self, path: Path, threads: int, sequences: int, context: int) -> None:
        spec = importlib.util.find_spec("xllamacpp")
        assert spec is not None
        assert spec.origin is not None
        lib = self._lib = c.CDLL(str(next(Path(spec.origin).parent.glob("*.so"))))
        self._silent = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda *_: None)
        lib.llama_log_set(self._silent, None)
        lib.llama_model_default_params.restype = Params
        lib.llama_context_default_params.restype = Params
        lib.llama_model_load_from_file.argtypes = [c.c_char_p, Params]
        lib.llama_model_load_from_file.restype = c.c_void_p
        lib.llama_init_from_model.argtypes = [c.c_void_p, Params]
        lib.llama_init_from_model.restype = c.c_void_p
        lib.llama_set_n_threads.argtypes = [c.c_void_p, c.c_int32, c.c_int32]
        lib.llama_batch_init.argtypes = [c.c_int32, c.c_int32, c.c_int32]
        lib.llama_batch_init.restype = Batch
        lib.llama_decode.argtypes = [c.c_void_p, Batch]
        lib.llama_get_logits_ith.argtypes = [c.c_void_p, c.c_int32]
        lib.llama_get_logits_ith.restype = c.POINTER(c.c_float)
        lib.llama_get_memory.argtypes = [c.c_void_p]
        lib.llama_get_memory.restype = c.c_void_p
        lib.llama_memory_seq_rm.argtypes = [c.c_void_p, c.c_int32, c.c_int32, c.c_int32]
        lib.llama_memory_seq_rm.restype = c.c_bool
        lib.llama_model_get_vocab.argtypes = [c.c_void_p]
        lib.llama_model_get_vocab.restype = c.c_void_p
        lib.llama_vocab_n_tokens.argtypes = [c.c_void_p]
        lib.llama_backend_init()
        model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        assert model, "llama.cpp doesn't load the file"
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        params = lib.llama_context_default_params()
        # n_ctx, n_batch, n_ubatch and n_seq_max come first in every version.
        numbers = (c.c_uint32 * 4).from_buffer(params)
        numbers[0], numbers[3] = context * sequences, sequences
        self._context = lib.llama_init_from_model(model, params)
        assert self._context, "llama.cpp makes no context"
        lib.llama_set_n_threads(self._context, threads, threads)
        self._memory = lib.llama_get_memory(self._context)
        self._batch = lib.llama_batch_init(512, 0, 1)

    def step(self, sequences: tuple[int, ...], first: int, ids: list[int], head: str) -> None:
        """Run tokens from position ``first`` on in each sequence; ``head``: logits of the
        ``last`` token, of ``all``, or ``none``."""
        batch, at = self._batch, 0
        for sequence in sequences:
            assert self._lib.llama_memory_seq_rm(self._memory, sequence, first, -1)
            for i, token in enumerate(ids):
                batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, first + i, 1
                batch.seq_id[at][0] = sequence
                batch.logits[at] = head == "all" or (head == "last" and i == len(ids) - 1)
                at += 1
        batch.n_tokens = at
        assert self._lib.llama_decode(self._context, batch) == 0
        if head != "none":  # waits for the results
            assert self._lib.llama_get_logits_ith(self._context, -1)

    def logits(self, index: int) -> np.ndarray:
        """Logits of a token of the last batch."""
        found = self._lib.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(found, (self.vocabulary,)).copy()
