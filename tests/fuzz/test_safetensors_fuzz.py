"""Mutated safetensors files: each opens and reads, or is one named error."""

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from hearthring.protocol.errors import BadModelFile
from tests.weight_files import EXTREMES, read_all, with_header

FILES = 400


@pytest.mark.parametrize("seed", range(3))
def test_every_mutation_reads_or_is_a_named_error(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "model.safetensors"
    draw = np.random.default_rng(seed)
    whole = {f"layers.{i}.w": draw.standard_normal((4, 8), np.float32) for i in range(3)}
    save_file(whole | {"norm": np.ones(8, np.float16)}, path)
    data = path.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    opens, refusals = 0, set()
    for _ in range(FILES):
        changed = bytearray(data)
        at = int(draw.integers(0, header))
        match int(draw.integers(0, 5)):
            case 0:
                changed[:8] = struct.pack("<Q", EXTREMES[draw.integers(len(EXTREMES))])
            case 1:
                digit = int(draw.choice([i for i in range(8, header) if 48 <= data[i] < 58]))
                changed[digit] = int(draw.integers(48, 58))
            case 2:
                del changed[int(draw.integers(0, len(data))) :]
            case 3:
                changed[at:at] = draw.bytes(3)
            case 4:
                changed[at] ^= 1 << int(draw.integers(0, 8))
        path.write_bytes(changed)
        try:
            read_all(path)
            opens += 1
        except BadModelFile as error:
            refusals.add(str(error))
    assert not any("\n" in refusal for refusal in refusals)
    assert opens > 3
    assert len(refusals) > 10


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "F8_E4M3", "BOOL", "X"]),
                "shape": st.lists(st.sampled_from([0, 1, 2, 4, -1, *EXTREMES]), max_size=6),
                "data_offsets": st.lists(st.integers(-4, 80), min_size=2, max_size=2),
            }
        ),
        max_size=4,
    )
)
@settings(max_examples=200, deadline=None)
def test_a_table_that_lies_reads_nothing_outside_the_file(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "lie.safetensors"
    path.write_bytes(with_header(table))
    with suppress(BadModelFile):
        assert read_all(path) <= 128
