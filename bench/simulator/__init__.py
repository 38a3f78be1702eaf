"""A ring in simulated time: what ways to speculate bring, before and beside real ones.

Discrete events: stages with times a + b · rows, links with latency and speed, clients that draft,
send, and go on from what comes back. ``bench/simulate_ring.py`` is its command.
"""

from bench.simulator.client import PLAIN, UNLIMITED, Policy
from bench.simulator.run import Outcome, simulate

__all__ = ["PLAIN", "UNLIMITED", "Outcome", "Policy", "simulate"]
