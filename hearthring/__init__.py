"""hearthring: home machines pool their memory and run language models that prove what they ran.

::

    with hearthring.Client(join=[invitation], model="smollm2") as client:
        answer = client.generate("Why is the sky blue?", max_tokens=64)
        print(answer.text)
        answer.proof.save("sky.proof")
        print(client.audit(answer.proof).outcome)

Everything heavy (torch, gRPC) is imported when a name is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hearthring.client.answer import Answer, Piece, Timings
    from hearthring.client.api import AsyncClient
    from hearthring.client.sync import Client
    from hearthring.protocol.errors import HearthringError
    from hearthring.protocol.invitation import Invitation
    from hearthring.verify.proof import Proof
    from hearthring.verify.verdict import Outcome, Verdict

__version__ = "0.1.0"

_HOME = {
    "Answer": "client.answer",
    "AsyncClient": "client.api",
    "Client": "client.sync",
    "HearthringError": "protocol.errors",
    "Invitation": "protocol.invitation",
    "Outcome": "verify.verdict",
    "Piece": "client.answer",
    "Proof": "verify.proof",
    "Timings": "client.answer",
    "Verdict": "verify.verdict",
}

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "HearthringError",
    "Invitation",
    "Outcome",
    "Piece",
    "Proof",
    "Timings",
    "Verdict",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'hearthring' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"hearthring.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
