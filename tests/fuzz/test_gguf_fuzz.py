"""Mutated model files: each opens, or is one named error. The seed is in the test's name."""

import struct
from pathlib import Path

import numpy as np
import pytest

from hearthring.protocol.errors import HearthringError
from hearthring.shards.gguf_file import GgufFile
from hearthring.shards.manifest import build
from hearthring.shards.tokenizer import Tokenizer
from tests.weight_files import EXTREMES

FILES = 250


def mutated(data: bytes, header: int, draw: np.random.Generator) -> bytes:
    """The file with one or two changes, nearly all in its header."""
    changed = bytearray(data)
    for _ in range(draw.integers(1, 3)):
        at = int(draw.integers(0, header))
        match int(draw.integers(0, 8)):
            case 0:
                changed[at : at + 8] = struct.pack("<Q", EXTREMES[draw.integers(len(EXTREMES))])
            case 1:
                changed[at : at + 4] = draw.bytes(4)
            case 2:
                del changed[at : at + int(draw.integers(1, 40))]
            case 3:
                changed[at:at] = draw.bytes(int(draw.integers(1, 40)))
            case 4:
                del changed[int(draw.integers(header, len(data))) :]
            case _ if at < len(changed):
                changed[at] ^= 1 << int(draw.integers(0, 8))
    return bytes(changed)


@pytest.mark.parametrize("seed", range(8))
def test_every_mutation_opens_or_is_a_named_error(
    tiny_gguf: Path, tmp_path: Path, seed: int
) -> None:
    data = tiny_gguf.read_bytes()
    whole = GgufFile(tiny_gguf)
    header = len(data) - sum(whole.raw(name)[2].size for name in whole.tensor_names())
    draw = np.random.default_rng(seed)
    path = tmp_path / "mutated.gguf"
    opens, refusals = 0, []
    for _ in range(FILES):
        path.write_bytes(mutated(data, header, draw))
        try:
            opened = GgufFile(path)
            build(opened)
            for name in opened.tensor_names():
                opened.dequantised(name)
            Tokenizer.from_gguf(opened)
        except HearthringError as error:
            refusals.append(str(error))
        else:
            opens += 1
    assert not any("\n" in refusal for refusal in refusals)
    # Otherwise the mutations would be too tame, too harsh, or all stopped at the same check.
    assert opens > FILES // 50
    assert len({refusal.split(": ", 1)[1] for refusal in refusals}) > FILES // 10
