"""What a home is made of."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine and its link to the home's switch. Zero means unlimited, or none.

    ``up`` and ``down`` are Mbit/s; ``delay`` and ``jitter`` ms one way; ``loss`` a fraction of
    frames; ``cpus`` processors' worth of time, ``memory`` MiB, ``disk`` MB/s read and written.
    """

    name: str
    up: float = 0.0
    down: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    cpus: float = 0.0
    memory: float = 0.0
    disk: float = 0.0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for what no machine can be."""
        if not (self.name.isalnum() and len(self.name) <= 8):
            raise ValueError(f"machine {self.name!r}: a name is one to eight letters and digits")
        for field in fields(self)[1:]:
            if getattr(self, field.name) < 0:
                raise ValueError(f"machine {self.name}: {field.name} is negative")
        if self.loss > 1:
            raise ValueError(f"machine {self.name}: loss is a fraction, 0 to 1")


def read_machines(path: Path) -> list[Machine]:
    """The ``[[machine]]`` tables of a TOML file. Raises ``ValueError`` for any other content."""
    found = tomllib.loads(path.read_text())
    known = {field.name for field in fields(Machine)}
    machines = []
    for table in found.get("machine", []):
        if wrong := set(table) - known:
            raise ValueError(f"{path}: a machine has no {', '.join(sorted(wrong))}")
        machines.append(Machine(**table))
    if not machines or len({machine.name for machine in machines}) < len(machines):
        raise ValueError(f"{path}: needs [[machine]] tables with different names")
    return machines
