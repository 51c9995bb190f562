"""What TensorFlow Serving's calls read from JSON."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.rest.json_calls import Asked
from edgeferry_runtime.serving.rest.tensorflow_calls import classify
from edgeferry_runtime.serving.service import Service
from edgeferry_runtime.serving.settings import Limits
from edgeferry_runtime.serving.signatures import find_signature


@pytest.fixture
def asked(server: Any) -> Asked:
    release = server.service.repository.find("float")
    service = Service(server.service.repository, Limits(tensor_bytes=1 << 20))
    return Asked(service, None, release, find_signature(release, ""))


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """See how much memory is taken meanwhile."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("context", "count", "kind"),
    [({f"x{i}": 0 for i in range(1000)}, 1000, Kind.INVALID), ({"image": [0.5] * 64}, 20_000, Kind.TOO_LARGE)],
    ids=["names", "values"],
)
def test_what_is_common_is_not_copied_for_each_example(
    asked: Asked, context: dict[str, Any], count: int, kind: Kind
) -> None:
    body = {"context": context, "examples": [{}] * count}
    with at_most(4_000_000), pytest.raises(RefusedError) as refused:
        classify(asked, body)
    assert refused.value.kind is kind


def test_a_common_picture_is_decoded_once(people: Any) -> None:
    release = people.service.repository.find("digits")
    asked = Asked(people.service, None, release, find_signature(release, ""))
    picture = {"b64": "A" * 400_000}
    with at_most(20_000_000):
        answering: Any = classify(asked, {"context": {"image": picture}, "examples": [{}] * 1000})
    pictures = answering.args[1]
    assert len(pictures) == 1000
    assert all(each is pictures[0] for each in pictures)
