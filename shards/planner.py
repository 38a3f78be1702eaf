"""Which layers a node takes when nobody tells it: the worst-served window.

Pure. Open swarms balance themselves this way, as Petals does (arXiv 2209.01188, section 3.2).
"""

from collections.abc import Sequence


def worst_served(service: Sequence[float], length: int) -> tuple[int, int]:
    """The window of ``length`` layers that most needs one more server.

    ``service`` holds, per layer, how much serves it now (rows per second, or a count). Windows are
    compared by their least-served layer, then the next, and so on; equal ones go to the lowest.
    """
    if not 0 < length <= len(service):
        raise ValueError(f"a window of {length} in {len(service)} layers")
    starts = range(len(service) - length + 1)
    start = min(starts, key=lambda s: (sorted(service[s : s + length]), s))
    return start, start + length


def layers_that_fit(layer_bytes: int, layers: int, memory: int, most: int | None = None) -> int:
    """How many layers a device takes: half its free memory's worth, at least one."""
    fit = max(1, int(memory * 0.5) // max(1, layer_bytes))
    return min(fit, layers, most or layers)
