"""Weight files to be read to the last byte, whatever they say of themselves."""

import json
import struct
from pathlib import Path

from hearthring.shards.safetensors_file import SafetensorsFile

EXTREMES = (0, 1, 0x7F, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
"""Numbers of a header, which readers may take for sizes."""


def read_all(path: Path) -> int:
    """Bytes of everything in the file, read as an import reads it."""
    opened = SafetensorsFile(path)
    return sum(
        opened.rows(name, 0, stored.shape[0]).nbytes for name, stored in opened.tensors.items()
    )


def with_header(header: object, data: bytes = bytes(64)) -> bytes:
    """A safetensors file of any header, JSON or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
