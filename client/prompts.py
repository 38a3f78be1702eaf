"""Questions that a draft is trained on: a published list, put together from tasks and subjects.

Every task is asked about every subject, in an order that mixes them, so that any beginning of the
list has something of everything. One in ``HELD_OUT`` subjects is never trained on: what is asked
about it tells how a draft does on questions that it hasn't seen.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from hearthring.protocol.errors import BadOption

HELD_OUT: Final = 8
FILE_BYTES, LINE_CHARS = 8 << 20, 4000
"""Bounds of a file of prompts."""

TASKS: Final = (
    "Explain {} to a child of ten.",
    "What are three common mistakes people make with {}?",
    "Write a short story about {}.",
    "Give me a list of five facts about {}.",
    "Write a friendly e-mail that asks a colleague for help with {}.",
    "How would you plan a weekend around {}?",
    "Write a Python function that stores notes about {} in a dictionary, and explain it.",
    "Write a small HTML page about {}.",
    "Compare {} with what it was like a hundred years ago.",
    "Write a poem of four lines about {}.",
    "What does one need to begin with {}? Answer in steps.",
    "Write a SQL table and three queries for a database about {}.",
    "Correct this text and repeat it: 'Yesterday we was talk about {}, and everybody have enjoy.'",
    "Summarise in one sentence why {} matters to some people.",
    "Write a dialogue between a teacher and a student about {}.",
    "Write a bash script that looks for files about {} and counts their lines.",
)
SUBJECTS: Final = (
    *("baking bread", "bicycles", "the night sky", "chess", "growing tomatoes", "trains"),
    *("old maps", "learning to swim", "coffee", "the sea", "volcanoes", "public libraries"),
    *("keeping bees", "football", "a good night's sleep", "the piano", "recycling", "dinosaurs"),
    *("photography", "mountain hiking", "money and saving", "birds in winter", "board games"),
    *("computers", "painting a room", "a long journey by ship", "healthy breakfasts", "clocks"),
    *(
        "languages",
        "rivers",
        "solar power",
        "cats",
        "writing letters",
        "markets",
        "the human heart",
    ),
    *("snow", "bridges", "films", "planting trees", "electric cars", "tea", "robots", "deserts"),
    *("school", "the moon", "knitting", "cooking rice", "islands", "newspapers", "honesty"),
    *("running", "castles", "the brain", "music festivals", "fishing", "kites", "vaccines"),
    *("forests", "whales", "fairy tales", "neighbours", "the stock market", "gravity", "carpentry"),
)


def published() -> Iterator[tuple[str, bool]]:
    """Every question, and whether it is held out of training."""
    for turn in range(len(SUBJECTS)):
        for place, task in enumerate(TASKS):
            subject = (turn + 5 * place) % len(SUBJECTS)
            yield task.format(SUBJECTS[subject]), subject % HELD_OUT == 0


def read_prompts(file: Path) -> Sequence[tuple[str, bool]]:
    """Questions of a user's file, one a line (``\\n`` in it is a line's end); as ``published``.

    One in ``HELD_OUT`` is held out. Raises ``BadOption`` for a file that can't be read or has
    fewer than two.
    """
    try:
        with file.open(encoding="utf-8-sig") as opened:
            text = opened.read(FILE_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadOption(f"{file}: {reason}", field="prompts") from None
    except UnicodeDecodeError:
        raise BadOption(f"{file} isn't UTF-8", field="prompts") from None
    if len(text) > FILE_BYTES:
        raise BadOption(f"{file} is larger than {FILE_BYTES >> 20} MiB", field="prompts")
    lines = [line.strip().replace("\\n", "\n") for line in text.split("\n")]
    found = [line[:LINE_CHARS] for line in lines if line]
    if len(found) < 2:
        raise BadOption(f"{file} holds fewer than two prompts, one a line", field="prompts")
    return [(line, place % HELD_OUT == 0) for place, line in enumerate(found)]
