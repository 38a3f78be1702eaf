"""Paces by name, as ``--pace`` and ``pace=`` have them."""

import re
from collections.abc import Callable

from hearthring.client.bandits import Exp3, Ucb
from hearthring.client.controller import Controller
from hearthring.client.pace import Explain, Fixed, Pace
from hearthring.client.shaped import EXPECTED, Shaped
from hearthring.client.speculation import STEPS
from hearthring.client.trying import ARMS, WIDTH, Trying
from hearthring.protocol.errors import BadOption

AUTO = "auto"
MOST = 32
"""Guesses in a step of a fixed pace."""

MakePace = Callable[[], Pace]

PACES: dict[str, Callable[[Explain | None], Pace]] = {
    AUTO: Controller,
    "dyspec": lambda explain: Controller(explain, deep=1),
    "sequoia": Shaped,
    "ucb": lambda explain: Trying(Ucb(len(ARMS), WIDTH), explain),
    "exp3": lambda explain: Trying(Exp3(len(ARMS)), explain),
}
SIBLINGS = {"dyspec": 4, "sequoia": len(EXPECTED)}
"""Paces of one step at a time that send trees, and how many siblings at a place they may want."""
_FIXED = re.compile(r"([1-9]\d?)(?:x([1-9]\d?))?")


def check_pace(wish: str | MakePace) -> str | MakePace:
    """A wish as it is, if there is such a pace: a name, ``4`` guesses a step, ``2x4`` of 2 in 4
    steps at once, or what makes one.

    Raises ``BadOption`` that lists the names.
    """
    if callable(wish) or (isinstance(wish, str) and (wish in PACES or _fixed(wish))):
        return wish
    names = ", ".join(PACES)
    mend = f"allowed: {names}, guesses a step such as 4, or times steps at once such as 2x4"
    raise BadOption(f"{wish!r} isn't allowed", field="pace", mend=mend)


def siblings(wish: str | MakePace) -> int:
    """How many a draft should say at a place: one, where steps follow each other down a branch."""
    return SIBLINGS.get(wish, 1) if isinstance(wish, str) else 1


def open_pace(wish: str | MakePace, explain: Explain | None) -> Pace:
    """The pace of one generation, for a wish that was checked."""
    if not isinstance(wish, str):
        return wish()
    return PACES[wish](explain) if wish in PACES else _fixed(wish) or Fixed()


def _fixed(wish: str) -> Fixed | None:
    found = _FIXED.fullmatch(wish)
    if found is None:
        return None
    rows, deep = int(found[1]), int(found[2] or 1)
    return Fixed(rows, deep) if rows <= MOST and deep <= STEPS else None
