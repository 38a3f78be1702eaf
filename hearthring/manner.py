"""The options of how to ask, which ``ask`` and ``chat`` share, and what becomes of them."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, get_type_hints

from hearthring.options import (
    Acceptance,
    ClassChange,
    Draft,
    EndsEngine,
    Explain,
    Pace,
    Patience,
    Remember,
    Threads,
    Wire,
)
from hearthring.terminal import Bars, remark

if TYPE_CHECKING:
    from hearthring.client.sync import Client


@dataclass(frozen=True, slots=True)
class Manner:
    """How to ask: each field is an option of the commands, described in ``options.py``."""

    draft: Draft = "auto"
    pace: Pace = "auto"
    remember: Remember = False
    patience: Patience = 30.0
    allow_class_change: ClassChange = False
    wire: Wire = "exact"
    acceptance: Acceptance = "gumbel"
    explain_speculation: Explain = False
    threads: Threads = None
    engine: EndsEngine = "auto"

    def client(self, join: Sequence[str] | None, model: str | None, progress: Bars) -> "Client":
        """A client that asks so. Raises what ``Client`` raises."""
        from hearthring.client.sync import Client

        return Client(
            join or (),
            model,
            progress=progress,
            threads=self.threads,
            engine=self.engine,
            pace=self.pace,
            patience=self.patience,
            allow_class_change=self.allow_class_change,
            remember=self.remember,
            wire=self.wire,
        )

    def request(self) -> dict[str, Any]:
        """What goes into every request."""
        options: dict[str, Any] = {"draft": self.draft, "acceptance": self.acceptance}
        return options | ({"explain": remark} if self.explain_speculation else {})


USUAL = Manner()


def with_manner(command: Callable[..., None]) -> Callable[..., None]:
    """The command for Typer: in the place of its parameter ``manner``, the fields as options."""
    hints = get_type_hints(Manner, include_extras=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(Manner)
    ]
    own = inspect.signature(command)
    spread = list[inspect.Parameter]()
    for name, parameter in own.parameters.items():
        keyword = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        spread += options if name == "manner" else [keyword]

    @wraps(command)
    def run(**given: Any) -> None:
        manner = Manner(**{option.name: given.pop(option.name) for option in options})
        command(**given, manner=manner)

    run.__signature__ = own.replace(parameters=spread)  # type: ignore[attr-defined]
    return run
