"""Which kernels the ggml engine takes for which rows: what makes one numerics class of it."""

from dataclasses import dataclass

LOW, FAST = "low", "fast"
F16, Q8_0 = "f16", "q8_0"


@dataclass(frozen=True, slots=True)
class Policy:
    """The choices that change bits, and ``prompt_memory``, which doesn't.

    ``prompt``: ``low`` multiplies prompt rows by the quantised kernels, ``fast`` in float32.
    ``prompt_memory``: bytes of float32 weights that ``fast`` may keep; without it widens weights as
    it goes. ``kv``: type of keys and values. ``repack``: weights in ggml's interleaved layout,
    in memory of their own, where there is one for their type. ``exact``: without it kernels
    change with the size of a batch as in llama.cpp, and no row's bits are promised.
    """

    prompt: str = LOW
    prompt_memory: int = 0
    kv: str = F16
    repack: bool = False
    exact: bool = True

    def name(self, blas: str) -> str:
        """Its part of the class's name."""
        prompt = f"{blas}-fp32" if self.prompt == FAST else "dot"
        words = [f"kv-{self.kv}", f"prompt-{prompt}"]
        words += ["packed"] if self.repack else []
        words += [] if self.exact else ["inexact"]
        return "/".join(words)


def policy_of(numerics: str) -> Policy:
    """The policy in a class's name, so that a replay can take the same."""
    words = numerics.split("/")
    fast = any(word.startswith("prompt-") and word.endswith("-fp32") for word in words)
    return Policy(
        prompt=FAST if fast else LOW,
        kv=Q8_0 if f"kv-{Q8_0}" in words else F16,
        repack="packed" in words,
        exact="inexact" not in words,
    )
