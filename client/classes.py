"""The numerics classes of a route: what a session that goes on with its text has to be like."""

from collections.abc import Sequence

from hearthring.client.route import Stage

Classes = tuple[tuple[int, int, str], ...]
"""Layers ``[start, end)`` and the fingerprint of their class, in order; neighbours differ."""


def classes_of(route: Sequence[Stage]) -> Classes:
    """The classes of a route, however it is cut into stages."""
    found = list[tuple[int, int, str]]()
    for stage in route:
        same = bool(found) and found[-1][2] == stage.fingerprint
        start = found.pop()[0] if same else stage.start
        found.append((start, stage.end, stage.fingerprint))
    return tuple(found)
