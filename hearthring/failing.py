"""How a command ends that can't do what it was asked: one line, with ``--json`` an object too."""

import json
import sys
from collections.abc import Sequence

from hearthring.protocol.errors import HearthringError


class Failing:
    """Says errors of a command with these ``arguments``.

    The line goes to standard error. With ``--json`` standard output has ``{"error": {name, message,
    field, mend, exit_code}}``, so that it is one object whatever happens.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        options = arguments[: arguments.index("--")] if "--" in arguments else arguments
        self._json = "--json" in options

    def named(self, error: HearthringError) -> int:
        """An error of ours; returns its exit code."""
        about = error.message, error.field, error.mend
        return self._end(str(error), type(error).__name__, *about, error.exit_code)

    def usage(self, message: str, code: int) -> int:
        """A command line that can't be read."""
        return self._end(message, "UsageError", message, "", "", code)

    def _end(self, line: str, name: str, message: str, field: str, mend: str, code: int) -> int:
        print(f"hearthring: {line}", file=sys.stderr)
        if self._json:
            about = {"name": name, "message": message, "field": field, "mend": mend}
            print(json.dumps({"error": about | {"exit_code": code}}, ensure_ascii=False))
        return code
