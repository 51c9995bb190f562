"""The messages of every gRPC service, in a pool of their own.

``protos/`` has their sources and ``messages.binpb``, what protoc makes of them. It is read as data, so no generated
code has to fit the version of protobuf, and messages of these names that other packages bring may be there as well.
A test compiles the sources anew, and writes the file with ``--update-golden``.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

COMPILED = "protos/messages.binpb"


@cache
def message(name: str) -> Any:
    """Return the class of a message by its full name, such as ``inference.ModelInferRequest``."""
    return GetMessageClass(_pool().FindMessageTypeByName(name))


@cache
def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(files(__package__).joinpath(COMPILED).read_bytes()).file:
        pool.Add(file)
    return pool
