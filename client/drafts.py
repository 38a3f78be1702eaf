"""Drafts by name, as ``--draft`` and ``draft=`` have them."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from hearthring.client.distilled import open_distilled
from hearthring.client.draft import Draft, Setting
from hearthring.client.draft_model import open_model, open_slrs, open_staged, open_tli
from hearthring.client.early_exit import NAME as EARLY_EXIT
from hearthring.client.early_exit import exit_parts, open_early_exit
from hearthring.client.ngrams import open_ngrams
from hearthring.client.pace import Explain
from hearthring.client.paces import AUTO as AUTO_PACE
from hearthring.client.paces import MakePace, open_pace, siblings
from hearthring.client.several import SeveralDrafts
from hearthring.client.speculation import Speculation
from hearthring.client.suffix import SuffixDraft
from hearthring.protocol.errors import BadOption, HearthringError
from hearthring.shards.draft_file import draft_path

if TYPE_CHECKING:
    from hearthring.client.request import PromptModel

AUTO, NONE = "auto", "none"
"""What the client thinks best, and no draft at all."""

Make = Callable[[Setting], Draft]

DRAFTS: dict[str, Make] = {
    "suffix": lambda setting: SuffixDraft(),
    "ngrams": open_ngrams,
    "model": open_model,
    "tli": open_tli,
    "slrs": open_slrs,
    "staged": open_staged,
    "distilled": open_distilled,
    EARLY_EXIT: open_early_exit,
}
OF_A_MODEL = ("model", "tli", "slrs", "staged")
"""Drafts that need an argument: a model's name or file."""


def check_draft(wish: str | Make) -> str | Make:
    """A wish as it is, if there is such a draft: ``NAME``, ``NAME:ARGUMENT``, several of them
    joined by ``+``, or what makes one.

    Raises ``BadOption`` that lists the names.
    """
    parts = wish.split("+") if isinstance(wish, str) else []
    names = [part.partition(":")[0] for part in parts]
    known = {*DRAFTS, *((AUTO, NONE) if len(names) == 1 else ())}
    if not set(names) <= known or not (isinstance(wish, str) or callable(wish)):
        allowed = ", ".join((AUTO, NONE, *DRAFTS))
        raise BadOption(f"{wish!r} isn't allowed", field="draft", mend=f"allowed: {allowed}")
    for part in parts:
        name, _, argument = part.partition(":")
        if name in OF_A_MODEL and not argument:
            raise BadOption(
                f"{name} of which model?", field="draft", mend=f"for example {name}:smollm2"
            )
    return wish


def needed_parts(wish: str | Make, model: "PromptModel") -> tuple[str, ...]:
    """Parts of the target, beside its ends, that the drafts which were wished for run.

    Raises ``BadOption`` when the model is none for them.
    """
    early = isinstance(wish, str) and EARLY_EXIT in [
        part.partition(":")[0] for part in wish.split("+")
    ]
    return exit_parts(model) if early else ()


def open_speculation(
    wish: str | Make,
    setting: Setting,
    pace: str | MakePace = AUTO_PACE,
    explain: Explain | None = None,
) -> Speculation:
    """The draft that was wished for, and who decides how far it guesses; ``explain`` is told.

    May take long, as a draft may have to be loaded. Raises ``BadOption`` and what the draft raises.
    """
    if wish == NONE:
        return Speculation()
    setting = replace(setting, explain=explain, wide=siblings(pace))
    if not isinstance(wish, str):
        draft = wish(setting)
    else:
        draft = _as_one(_automatic(setting) if wish == AUTO else _named(wish, setting))
    return Speculation(draft, open_pace(pace, explain), explain)


def _automatic(setting: Setting) -> list[Draft]:
    """What costs nothing, and the draft that was trained for this very model, if it can be had."""
    made = _named("suffix" if setting.remembered is None else "suffix+ngrams", setting)
    if draft_path(setting.model.entry.model_id).exists():
        try:
            made.append(open_distilled(setting))
        except HearthringError as error:
            if setting.explain is not None:
                setting.explain(f"no guesses of the trained draft: {error.message}")
    return made


def _named(wish: str, setting: Setting) -> list[Draft]:
    """The drafts of a wish. What was made is given up if another can't be."""
    made: list[Draft] = []
    try:
        for part in wish.split("+"):
            name, _, argument = part.partition(":")
            made.append(DRAFTS[name](replace(setting, argument=argument)))
    except BaseException:
        for draft in made:
            draft.close()
        raise
    return made


def _as_one(drafts: list[Draft]) -> Draft:
    return drafts[0] if len(drafts) == 1 else SeveralDrafts(drafts)
