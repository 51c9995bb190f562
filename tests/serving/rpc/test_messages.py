"""The messages: their compiled form is that of their sources."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import Default

from edgeferry_runtime.serving.rpc import messages
from edgeferry_runtime.serving.rpc.messages import message

PROTOS = Path(messages.__file__).parent / "protos"
SOURCES = sorted(path.name for path in PROTOS.glob("*.proto"))


def own(data: bytes) -> dict[str, object]:
    """Return the files of a compiled set by name, without protobuf's own, which differ between compilers."""
    return {file.name: file for file in FileDescriptorSet.FromString(data).file if not file.name.startswith("google/")}


def test_what_is_shipped_is_what_the_sources_say(
    tmp_path: Path, missing: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    if not find_spec("grpc_tools"):
        missing("grpcio-tools is not installed")
    made = tmp_path / "messages.binpb"
    line = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", "--include_imports", *SOURCES]
    subprocess.run([*line, f"--descriptor_set_out={made}"], check=True)
    shipped = PROTOS / "messages.binpb"
    if request.config.getoption("--update-golden"):
        shipped.write_bytes(made.read_bytes())
    assert own(shipped.read_bytes()) == own(made.read_bytes())


def test_every_source_is_shipped() -> None:
    assert sorted(own((PROTOS / "messages.binpb").read_bytes())) == SOURCES


def test_no_other_package_meets_our_messages() -> None:
    assert message("inference.ModelInferRequest")().SerializeToString() == b""
    with pytest.raises(KeyError):
        Default().FindMessageTypeByName("inference.ModelInferRequest")


def test_a_message_of_no_source_is_an_error() -> None:
    with pytest.raises(KeyError, match="ModelConfig"):
        message("inference.ModelConfig")
