"""ggml's C functions, called through ctypes in a shared object that somebody else built.

The ``xllamacpp`` wheel exports them without promising to, so the version is pinned and everything
that is relied on is checked when the library is loaded: each symbol, ggml's own version, and the
one place in a struct that is written to directly.
"""

import ctypes as c
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from hearthring.protocol.errors import EngineUnavailable

WHEEL: Final = "2026.10.11549"
VERSION: Final = "0.26.0"
"""The ggml whose functions, struct layout and order of sums this release knows."""

OVERRIDE: Final = "HEARTHRING_GGML"
"""Environment variable: the path of another shared object that exports the same ggml."""

F32, F16, Q8_0, I32, I64, BF16 = 0, 1, 8, 26, 27, 30  # ggml's numbers for types

DATA_OFFSET: Final = 248
"""Where ``struct ggml_tensor`` keeps its data pointer."""

_TO_FLOAT: Final = 40  # where ``struct ggml_type_traits`` keeps ``to_float``

_SPINS: Final = "GOMP_SPINCOUNT"


_Widen = c.CFUNCTYPE(None, c.c_void_p, c.c_void_p, c.c_int64)


class InitParams(c.Structure):
    """``struct ggml_init_params``."""

    _fields_ = (("mem_size", c.c_size_t), ("mem_buffer", c.c_void_p), ("no_alloc", c.c_bool))


_P, _SIZE, _I64, _I32, _F32, _BOOL = (
    *(c.c_void_p, c.c_size_t, c.c_int64, c.c_int32, c.c_float, c.c_bool),
)
_CALLS: Final[dict[str, tuple[object, ...]]] = {  # result, then arguments
    "ggml_version": (c.c_char_p,),
    "ggml_cpu_has_avx2": (_I32,),
    "ggml_cpu_has_avx512": (_I32,),
    "ggml_cpu_has_avx512_vnni": (_I32,),
    "ggml_cpu_has_neon": (_I32,),
    "ggml_tensor_overhead": (_SIZE,),
    "ggml_graph_overhead_custom": (_SIZE, _SIZE, _BOOL),
    "ggml_init": (_P, InitParams),
    "ggml_free": (None, _P),
    "ggml_new_tensor_1d": (_P, _P, _I32, _I64),
    "ggml_new_tensor_2d": (_P, _P, _I32, _I64, _I64),
    "ggml_new_tensor_3d": (_P, _P, _I32, _I64, _I64, _I64),
    "ggml_get_data": (_P, _P),
    "ggml_set_input": (None, _P),
    "ggml_set_output": (None, _P),
    "ggml_add": (_P, _P, _P, _P),
    "ggml_mul": (_P, _P, _P, _P),
    "ggml_div": (_P, _P, _P, _P),
    "ggml_mul_mat": (_P, _P, _P, _P),
    "ggml_mul_mat_id": (_P, _P, _P, _P, _P),
    "ggml_soft_max": (_P, _P, _P),
    "ggml_argsort_top_k": (_P, _P, _P, _I32),
    "ggml_sum_rows": (_P, _P, _P),
    "ggml_cont": (_P, _P, _P),
    "ggml_rms_norm": (_P, _P, _P, _F32),
    "ggml_rope_ext": (_P, _P, _P, _P, _P, *[_I32] * 3, *[_F32] * 6),
    "ggml_get_rows": (_P, _P, _P, _P),
    "ggml_set_rows": (_P, _P, _P, _P, _P),
    "ggml_flash_attn_ext": (_P, _P, _P, _P, _P, _P, _F32, _F32, _F32),
    "ggml_swiglu": (_P, _P, _P),
    "ggml_swiglu_split": (_P, _P, _P, _P),
    "ggml_geglu": (_P, _P, _P),
    "ggml_scale": (_P, _P, _P, _F32),
    "ggml_tanh": (_P, _P, _P),
    "ggml_geglu_split": (_P, _P, _P, _P),
    "ggml_pad": (_P, _P, _P, *[_I32] * 4),
    "ggml_cast": (_P, _P, _P, _I32),
    "ggml_cpy": (_P, _P, _P, _P),
    "ggml_concat": (_P, _P, _P, _P, _I32),
    "ggml_reshape_2d": (_P, _P, _P, _I64, _I64),
    "ggml_reshape_3d": (_P, _P, _P, _I64, _I64, _I64),
    "ggml_view_2d": (_P, _P, _P, _I64, _I64, _SIZE, _SIZE),
    "ggml_view_3d": (_P, _P, _P, _I64, _I64, _I64, _SIZE, _SIZE, _SIZE),
    "ggml_permute": (_P, _P, _P, _I32, _I32, _I32, _I32),
    "ggml_new_graph_custom": (_P, _P, _SIZE, _BOOL),
    "ggml_build_forward_expand": (None, _P, _P),
    "ggml_gallocr_new": (_P, _P),
    "ggml_gallocr_alloc_graph": (_BOOL, _P, _P),
    "ggml_gallocr_get_buffer_size": (_SIZE, _P, _I32),
    "ggml_gallocr_free": (None, _P),
    "ggml_backend_cpu_init": (_P,),
    "ggml_backend_free": (None, _P),
    "ggml_backend_cpu_set_n_threads": (None, _P, _I32),
    "ggml_backend_cpu_set_use_ref": (None, _P, _BOOL),
    "ggml_backend_cpu_buffer_type": (_P,),
    "ggml_backend_cpu_buffer_from_ptr": (_P, _P, _SIZE),
    "ggml_backend_buffer_free": (None, _P),
    "ggml_backend_tensor_alloc": (_I32, _P, _P, _P),
    "ggml_backend_graph_compute": (_I32, _P, _P),
    "ggml_custom_4d": (_P, _P, _I32, *[_I64] * 4, _P, _I32, _P, _I32, _P),
    "ggml_get_type_traits": (_P, _I32),
    "ggml_log_set": (None, _P, _P),
    "ggml_backend_buft_alloc_buffer": (_P, _P, _SIZE),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_P, _P, _P),
    "ggml_backend_buffer_set_usage": (None, _P, _I32),
    "ggml_backend_buffer_get_base": (_P, _P),
    "ggml_backend_buffer_get_size": (_SIZE, _P),
    "ggml_backend_tensor_set": (None, _P, _P, _SIZE, _SIZE),
    "_Z35ggml_backend_cpu_repack_buffer_typev": (_P,),
    "ggml_quantize_chunk": (_SIZE, _I32, _P, _P, _I64, _I64, _I64, _P),
}


@dataclass(frozen=True)
class Ggml:
    """A library that passed every check. ``calls`` holds its functions under their C names."""

    calls: c.CDLL
    path: Path
    build: str
    """Version and instruction set, such as ``0.26.0-avx2``."""

    def to_float(self, kind: int) -> Callable[[int, int, int], None]:
        """ggml's function that widens values of a type, other than F32, to float32.

        It takes the address of whole blocks, that of the floats, and how many values these are.
        """
        traits = self.calls.ggml_get_type_traits(kind)
        return _Widen(c.c_void_p.from_address(traits + _TO_FLOAT).value or 0)


@cache
def load_ggml(path: str | None = None) -> Ggml:
    """Load the library at ``path``, else at ``$HEARTHRING_GGML``, else the pinned wheel's.

    Raises ``EngineUnavailable``.
    """
    chosen = path or os.environ.get(OVERRIDE)
    file = Path(chosen) if chosen else _wheel()
    try:
        with _patient_threads():
            calls = c.CDLL(str(file))
    except OSError as error:
        raise _unavailable(f"{file} can't be loaded: {error}") from None
    for name, (result, *arguments) in _CALLS.items():
        function = getattr(calls, name, None)
        if function is None:
            raise _unavailable(f"{file} doesn't export {name}")
        function.restype, function.argtypes = result, arguments
    found = (calls.ggml_version() or b"").decode(errors="replace")
    if found != VERSION:
        raise _unavailable(f"{file} is ggml {found}, this release needs {VERSION}")
    if not _layout_is_known(calls):
        raise _unavailable(f"{file} lays out tensors in another way than ggml {VERSION}")
    features = ("avx2", "avx512", "avx512_vnni", "neon")
    has = [name for name in features if getattr(calls, f"ggml_cpu_has_{name}")()]
    return Ggml(calls, file, "-".join((found, *has)))


def _wheel() -> Path:
    """The shared object of the installed wheel, found without importing it."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise _unavailable("xllamacpp isn't installed")
    try:
        installed = version("xllamacpp")
    except PackageNotFoundError:
        installed = "of an unknown version"
    if installed != WHEEL:
        raise _unavailable(f"xllamacpp is {installed}, this release needs {WHEEL}")
    files = sorted(Path(spec.origin).parent.glob("xllamacpp*.so"))
    if not files:
        raise _unavailable("xllamacpp holds no shared object for this system")
    return files[0]


@contextmanager
def _patient_threads() -> Iterator[None]:
    """Make libgomp, which reads its settings when it is loaded, give up spinning early.

    A thread waits at a barrier after every operation, hundreds of times per step. By default it
    spins for milliseconds: on a busy machine it then spins through the time slice that the thread
    it waits for would need (8 rows took 2.9 s instead of 33 ms). A user's own setting stands.
    """
    ours = not any(name in os.environ for name in (_SPINS, "OMP_WAIT_POLICY"))
    if ours:
        os.environ[_SPINS] = "20000"
    try:
        yield
    finally:
        if ours:  # not for the children of this process
            del os.environ[_SPINS]


def _layout_is_known(calls: c.CDLL) -> bool:
    memory = c.create_string_buffer(4096)
    context = calls.ggml_init(InitParams(len(memory), c.addressof(memory), False))
    if not context:
        return False
    tensor = calls.ggml_new_tensor_1d(context, F32, 8)
    place = c.c_void_p.from_address(tensor + DATA_OFFSET)
    data = calls.ggml_get_data(tensor)
    known = bool(data) and place.value == data
    if known:  # the C side must see what is written there
        place.value = data + 4
        known = bool(calls.ggml_get_data(tensor) == data + 4)
    calls.ggml_free(context)
    return known


def _unavailable(message: str) -> EngineUnavailable:
    return EngineUnavailable(
        message,
        field="engine",
        mend=f"pip install xllamacpp=={WHEEL}, or use the torch engine",
    )
