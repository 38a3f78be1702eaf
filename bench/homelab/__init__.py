"""An emulated home on one Linux machine: see ``home.py``, or ``python -m bench.homelab --help``."""

from bench.homelab.home import Home, why_not
from bench.homelab.machine import Machine, read_machines

__all__ = ["Home", "Machine", "read_machines", "why_not"]
