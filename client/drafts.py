"""Drafts by name, as ``--draft`` and ``draft=`` have them."""

from collections.abc import Callable

from hearthring.client.draft import Draft, Setting
from hearthring.client.suffix import SuffixDraft
from hearthring.protocol.errors import BadOption

AUTO, NONE = "auto", "none"
"""What the client thinks best, and no draft at all."""

Make = Callable[[Setting], Draft]

DRAFTS: dict[str, Make] = {"suffix": lambda setting: SuffixDraft()}


def check_draft(wish: str) -> str:
    """A wish as it is, if there is such a draft: ``NAME`` or ``NAME:ARGUMENT``.

    Raises ``BadOption`` that lists the names.
    """
    name = wish.partition(":")[0] if isinstance(wish, str) else None
    if name not in (AUTO, NONE, *DRAFTS):
        allowed = ", ".join((AUTO, NONE, *DRAFTS))
        raise BadOption(f"{wish!r} isn't allowed", field="draft", mend=f"allowed: {allowed}")
    return wish
