"""The ways to guess that ``bench/speculation.py`` compares and ``bench/predict.py`` foretells."""

WAYS = {
    "chain of 2": "2",
    "chain of 4": "4",
    "chain of 8": "8",
    "tree of 6": "6",
    "sequoia tree": "sequoia",
    "4 steps of 2": "2x4",
    "8 steps of 3": "3x8",
    "ucb": "ucb",
    "exp3": "exp3",
    "controller": "auto",
}
"""Paces by the names that `--pace` has for them; drafts of trees say two tokens at a place."""


def wide(way: str) -> int:
    """How many tokens a draft says at a place."""
    return 2 if "tree" in way else 1
