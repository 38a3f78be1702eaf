"""How deep an audit goes, and whose work that is."""

import os
from typing import cast

from hearthring.protocol.errors import BadOption
from hearthring.verify.proof import Proof
from hearthring.verify.vote import MOST_SEATS

WHOLE, STAGE, CELLS = DEPTHS = "whole", "stage", "cells"


def check_depth(depth: str, verifiers: int | None, swarm: bool) -> None:
    """Raise ``BadOption`` for a depth that there isn't, or that can't be gone to so.

    ``verifiers`` None: own weights judge. ``swarm``: whether nodes can be asked.
    """
    if depth not in DEPTHS:
        raise BadOption(f"there is no {depth!r}", field="depth", mend=", ".join(DEPTHS))
    if verifiers is not None and not _can_vote(verifiers):
        mend = f"an odd number, 1 to {MOST_SEATS}"
        raise BadOption(f"{verifiers!r} can't vote", field="verifiers", mend=mend)
    if verifiers is not None and not swarm:
        raise BadOption("a swarm is needed to ask", field="verifiers", mend="give --join")
    if depth == STAGE and verifiers is None:
        raise BadOption("verifiers replay stages", field="depth", mend="give --verifiers")
    if depth == CELLS and verifiers is not None:
        raise BadOption(
            "cells are opened to the proof's own client", field="depth", mend="without --verifiers"
        )
    if depth == CELLS and not swarm:
        raise BadOption("stages must be asked for cells", field="depth", mend="give --join")


def proof_of(said: object) -> Proof:
    """A proof, or that in the file of this name. Reads the disk.

    Raises ``BadProof``, and ``BadOption`` where there is none.
    """
    if isinstance(said, Proof):
        return said
    if not isinstance(said, str | os.PathLike):
        kind = type(said).__name__
        mend = "a Proof, such as answer.proof, or the name of a file"
        raise BadOption(f"{kind} is no proof", field="proof", mend=mend)
    path = cast("str | os.PathLike[str]", said)
    try:
        return Proof.load(path)
    except (OSError, ValueError) as error:  # a name that none may be is a ValueError
        why = getattr(error, "strerror", None) or str(error)
        raise BadOption(f"{os.fspath(path)}: {why.lower()}", field="proof") from None


def _can_vote(verifiers: object) -> bool:
    return type(verifiers) is int and 1 <= verifiers <= MOST_SEATS and verifiers % 2 == 1
