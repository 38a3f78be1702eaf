"""Drafts by name, as ``--draft`` and ``draft=`` have them."""

from collections.abc import Callable
from dataclasses import replace

from hearthring.client.controller import Controller
from hearthring.client.draft import Draft, Setting
from hearthring.client.pace import Explain, Pace
from hearthring.client.speculation import Speculation
from hearthring.client.suffix import SuffixDraft
from hearthring.protocol.errors import BadOption

AUTO, NONE = "auto", "none"
"""What the client thinks best, and no draft at all."""

Make = Callable[[Setting], Draft]
MakePace = Callable[[], Pace]

DRAFTS: dict[str, Make] = {"suffix": lambda setting: SuffixDraft()}


def check_draft(wish: str | Make) -> str | Make:
    """A wish as it is, if there is such a draft: ``NAME``, ``NAME:ARGUMENT``, or what makes one.

    Raises ``BadOption`` that lists the names.
    """
    name = wish.partition(":")[0] if isinstance(wish, str) else AUTO
    if name not in (AUTO, NONE, *DRAFTS) or not (isinstance(wish, str) or callable(wish)):
        allowed = ", ".join((AUTO, NONE, *DRAFTS))
        raise BadOption(f"{wish!r} isn't allowed", field="draft", mend=f"allowed: {allowed}")
    return wish


def open_speculation(
    wish: str | Make,
    setting: Setting,
    pace: MakePace | None = None,
    explain: Explain | None = None,
) -> Speculation:
    """The draft that was wished for, and who decides how far it guesses; ``explain`` is told.

    May take long, as a draft may have to be loaded. Raises ``BadOption`` and what the draft raises.
    """
    if wish == NONE:
        return Speculation()
    if isinstance(wish, str):
        name, _, argument = wish.partition(":")
        make = DRAFTS["suffix" if name == AUTO else name]
        draft = make(replace(setting, argument=argument))
    else:
        draft = wish(setting)
    return Speculation(draft, Controller(explain) if pace is None else pace(), explain)
