"""The committed *_pb2.py say exactly what the .proto files say."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

ROOT = Path(__file__).parents[2]


def without_json_names(message: Any) -> Any:
    """Generators differ in whether they write ``json_name``."""
    for kind in message.message_type if hasattr(message, "message_type") else message.nested_type:
        for field in kind.field:
            field.ClearField("json_name")
        without_json_names(kind)
    return message


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "proto").glob("*.proto")))
def test_generated_code_is_fresh(name: str, tmp_path: Path) -> None:
    out = tmp_path / "set.bin"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Ihearthring/proto=proto"]
    subprocess.run(
        [*command, f"--descriptor_set_out={out}", f"proto/{name}.proto"], cwd=ROOT, check=True
    )
    fresh = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]
    committed = descriptor_pb2.FileDescriptorProto()
    module = importlib.import_module(f"hearthring.proto.{name}_pb2")
    module.DESCRIPTOR.CopyToProto(committed)
    assert without_json_names(committed) == without_json_names(fresh)
