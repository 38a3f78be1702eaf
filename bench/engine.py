"""How fast is the ggml engine beside llama.cpp, on the same file, threads and library?

Both run in processes of their own and take turns, one measurement at a time; each figure is the
best of all rounds, since on a shared machine only delays are random. llama.cpp is called through
its C API (``llama_decode``, its defaults) without server or sampler. "layers" leaves out the head
on both sides, and llama.cpp then skips most of the last layer too (about 3 %); "whole" is
from token id to logits of the last row, ours with the same ggml head.

Run: python bench/engine.py MODEL.gguf [--threads 1 2] [--rounds 5] [--json]
"""

import argparse
import ctypes as c
import json
import platform
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CONTEXT = 1024
DECODE = 32
TOKEN = 1743

# name: (rows in a step, position of the first, steps, with head)
CASES = {
    "decode, layers": (1, 16, DECODE, False),
    "decode, whole": (1, 16, DECODE, True),
    "decode at 640, layers": (1, 640, DECODE // 2, False),
    "8 rows, layers": (8, 64, 2, False),
    "16 rows, layers": (16, 64, 2, False),
    "8 rows at 640, layers": (8, 640, 2, False),
    "prefill 512, whole": (512, 0, 1, True),
}

Step = Callable[[int, int, bool], None]
"""Run rows ``first .. first + count`` whose ancestors are all rows before, with or without head."""


def ours(path: Path, threads: int) -> Step:
    """The ggml engine over all layers; embedding rows widened by numpy, the head a ggml graph."""
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    from hearthring.protocol.tensors import Residual, pack, unpack
    from hearthring.shards.engine import EngineRow, Kind, Segment
    from hearthring.shards.engines import load_engine
    from hearthring.shards.gguf_file import GgufFile

    file = GgufFile(path)
    engine = load_engine("ggml", file, (0, file.shape.layers), Residual.BF16, threads)
    kind, shape, data = file.raw("token_embd.weight")
    table = data.reshape(shape[0], -1)
    head = _Head(file, threads)
    cache, slots = engine.new_cache(CONTEXT), np.arange(CONTEXT)

    def step(first: int, count: int, logits: bool) -> None:
        wide = dequantize(table[np.full(count, TOKEN)], GGMLQuantizationType(kind))
        states = unpack(pack(wide, Residual.BF16), count, file.shape.width, Residual.BF16)
        rows = tuple(
            EngineRow(Kind.GENERATED, p, p, slots[: p + 1]) for p in range(first, first + count)
        )
        out, _ = engine.forward((Segment(cache, rows),), states)
        if logits:
            head.logits(out[-1])

    return step


class _Head:
    """Final norm and output head for one row."""

    def __init__(self, file: Any, threads: int) -> None:
        from hearthring.shards import ggml_memory as g
        from hearthring.shards.ggml_library import F32, load_ggml

        self.ggml = load_ggml()
        call = self.call = self.ggml.calls
        self.memory = g.Memory(self.ggml, 16, 16)
        at, self.bytes = self.memory.context, []
        anywhere = call.ggml_backend_cpu_buffer_from_ptr(4096, 1 << 47)

        def weight(name: str) -> int:
            kind, shape, data = file.raw(name)
            new = getattr(call, f"ggml_new_tensor_{len(shape)}d")
            tensor: int = new(at, kind, *reversed(shape))
            call.ggml_backend_tensor_alloc(anywhere, tensor, data.ctypes.data)
            self.bytes.append(data)
            return tensor

        state = call.ggml_new_tensor_2d(at, F32, file.shape.width, 1)
        call.ggml_set_input(state)
        normed = call.ggml_rms_norm(at, state, file.shape.norm_epsilon)
        normed = call.ggml_mul(at, normed, weight("output_norm.weight"))
        tied = "token_embd.weight" if file.shape.tied_head else "output.weight"
        out = call.ggml_mul_mat(at, weight(tied), normed)
        self.graph = call.ggml_new_graph_custom(at, 16, False)
        call.ggml_build_forward_expand(self.graph, out)
        allocator = call.ggml_gallocr_new(call.ggml_backend_cpu_buffer_type())
        assert call.ggml_gallocr_alloc_graph(allocator, self.graph)
        self.given = g.view(call, state, c.c_float, file.shape.width)
        self.result = g.view(call, out, c.c_float, file.shape.vocabulary)
        self.backend = call.ggml_backend_cpu_init()
        call.ggml_backend_cpu_set_n_threads(self.backend, threads)

    def logits(self, row: Any) -> Any:
        """Logits, overwritten by the next call."""
        self.given[:] = row
        assert self.call.ggml_backend_graph_compute(self.backend, self.graph) == 0
        return self.result


class _Params(c.Structure):  # larger than any of llama.cpp's parameter blocks
    _fields_ = (("block", c.c_ubyte * 1024),)


class _Batch(c.Structure):
    _fields_ = (
        ("n_tokens", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        ("embd", c.c_void_p),
        ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)),
        ("seq_id", c.POINTER(c.POINTER(c.c_int32))),
        ("logits", c.POINTER(c.c_int8)),
    )


def theirs(path: Path, threads: int) -> Step:
    """llama.cpp as its library's defaults have it."""
    import importlib.util

    spec = importlib.util.find_spec("xllamacpp")
    assert spec is not None
    assert spec.origin is not None
    lib = c.CDLL(str(next(Path(spec.origin).parent.glob("*.so"))))
    silent = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda *_: None)
    lib.llama_log_set(silent, None)
    lib.llama_model_default_params.restype = _Params
    lib.llama_context_default_params.restype = _Params
    lib.llama_model_load_from_file.argtypes = [c.c_char_p, _Params]
    lib.llama_model_load_from_file.restype = c.c_void_p
    lib.llama_init_from_model.argtypes = [c.c_void_p, _Params]
    lib.llama_init_from_model.restype = c.c_void_p
    lib.llama_set_n_threads.argtypes = [c.c_void_p, c.c_int32, c.c_int32]
    lib.llama_batch_init.argtypes = [c.c_int32, c.c_int32, c.c_int32]
    lib.llama_batch_init.restype = _Batch
    lib.llama_decode.argtypes = [c.c_void_p, _Batch]
    lib.llama_get_logits_ith.argtypes = [c.c_void_p, c.c_int32]
    lib.llama_get_logits_ith.restype = c.POINTER(c.c_float)
    lib.llama_get_memory.argtypes = [c.c_void_p]
    lib.llama_get_memory.restype = c.c_void_p
    lib.llama_memory_seq_rm.argtypes = [c.c_void_p, c.c_int32, c.c_int32, c.c_int32]
    lib.llama_memory_seq_rm.restype = c.c_bool
    lib.llama_backend_init()
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    c.c_uint32.from_buffer(params).value = CONTEXT  # n_ctx comes first in every version
    context = lib.llama_init_from_model(model, params)
    assert context, "llama.cpp makes no context"
    lib.llama_set_n_threads(context, threads, threads)
    memory = lib.llama_get_memory(context)
    batch = lib.llama_batch_init(512, 0, 1)

    def step(first: int, count: int, logits: bool) -> None:
        assert lib.llama_memory_seq_rm(memory, 0, first, -1)
        for i in range(count):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = TOKEN, first + i, 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = logits and i == count - 1
        batch.n_tokens = count
        assert lib.llama_decode(context, batch) == 0
        if logits:
            assert lib.llama_get_logits_ith(context, -1)

    step.keep = silent  # type: ignore[attr-defined]
    return step


def _work(pipe: Connection, make: Callable[[Path, int], Step], path: Path, threads: int) -> None:
    begun = time.perf_counter()
    step = make(path, threads)
    pipe.send(time.perf_counter() - begun)
    filled = 0
    while (case := pipe.recv()) is not None:
        count, first, steps, logits = CASES[case]
        while filled < first:  # the context that the rows see
            step(filled, min(128, first - filled), False)
            filled += min(128, first - filled)
        step(first, count, logits)
        begun = time.perf_counter()
        for index in range(steps):
            step(first + (index if count == 1 else 0), count, logits)
        pipe.send((time.perf_counter() - begun) / steps)
        filled = first


def compare(path: Path, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Best seconds per step of either side, by case, and load time."""
    spawn = get_context("spawn")
    best: dict[str, dict[str, float]] = {name: {} for name in ("load", *CASES)}
    workers = []
    for side, make in (("ours", ours), ("llama.cpp", theirs)):
        here, there = spawn.Pipe()
        process = spawn.Process(target=_work, args=(there, make, path, threads))
        process.start()
        there.close()  # so that a worker's end is noticed
        best["load"][side] = here.recv()
        workers.append((side, here, process))
    for number in range(rounds):
        for case in CASES:
            for side, pipe, _ in workers if number % 2 else workers[::-1]:
                time.sleep(0.02)  # until the other side's threads have stopped spinning
                pipe.send(case)
                took = pipe.recv()
                best[case][side] = min(took, best[case].get(side, took))
    for _, pipe, process in workers:
        pipe.send(None)
        process.join()
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = parser.parse_args()
    seconds = {}
    for n in options.threads:
        seconds[f"{n} threads"] = found = compare(options.model, n, options.rounds)
        if not options.json:
            show(options.model.name, n, found)
    if options.json:
        machine = f"{platform.machine()} {platform.system()}, python {platform.python_version()}"
        json.dump({"machine": machine, "file": options.model.name, "seconds": seconds}, sys.stdout)


def show(name: str, threads: int, found: dict[str, dict[str, float]]) -> None:
    """Print one table."""
    print(f"{name}, {threads} thread(s): rows/s (load: s); ratio above 1: ours faster")
    for case, sides in found.items():
        mine, other = sides["ours"], sides["llama.cpp"]
        rows = CASES[case][0] if case in CASES else 0
        shown = [f"{rows / value if rows else value:8.2f}" for value in (mine, other)]
        print(f"  {case:24} ours {shown[0]}  llama.cpp {shown[1]}  ratio {other / mine:5.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
