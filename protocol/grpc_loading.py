"""gRPC, loaded so that a message reaches whoever waits for it by the shortest way.

In the releases named here a thread of gRPC's own reads what comes in, and wakes the one that tells
asyncio. The way before that, still in them, lets the latter read for itself, one wake-up less. gRPC
looks which way to go when it is loaded.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

SETTING = "GRPC_EXPERIMENTS"
DIRECT = (
    "-event_engine_client,-event_engine_listener,-event_engine_callback_cq,-pollset_alternative"
)
RELEASES = ("1.85.",)
"""Those that are known to have both ways under these names: others complain of unknown ones."""


@contextmanager
def reading_directly(release: str) -> Iterator[None]:
    """While gRPC of this release is loaded. A user's own setting stands."""
    ours = release.startswith(RELEASES) and SETTING not in os.environ
    if ours:
        os.environ[SETTING] = DIRECT
    try:
        yield
    finally:
        if ours:  # not for the children of this process
            del os.environ[SETTING]


with reading_directly(version("grpcio")):
    import grpc
    import grpc.aio

__all__ = ["grpc"]
