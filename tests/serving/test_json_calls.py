"""Requests in JSON on their way to a model: where they are read, and by which release."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_runtime.serving.aside import AT_ONCE
from edgeferry_runtime.serving.rest.json_calls import Answering, Asked, understand
from edgeferry_runtime.serving.service import Service
from edgeferry_runtime.serving.signatures import find_signature


def find(service: Service, name: str, value: Any) -> Asked:
    release = service.repository.find(name)
    return Asked(service, None, release, find_signature(release, ""))


@pytest.mark.parametrize("padding", [0, AT_ONCE])
def test_only_a_large_request_is_read_in_a_thread(server: Any, padding: int) -> None:
    seen: list[Any] = []

    def read(asked: Asked, value: Any) -> Answering:
        seen.extend([value, threading.get_ident()])
        return partial(asked.run, asked.tensors(value))

    async def ask() -> Any:
        seen.append(threading.get_ident())
        body = json.dumps({"image": np.zeros((1, 1, 8, 8)).tolist()}).encode() + b" " * padding
        return await (await understand(server.service, body, partial(find, server.service, "float"), read))()

    assert server.do(ask())["digit"].shape == (1, 10)
    loop, value, reader = seen
    assert list(value) == ["image"]
    assert (reader == loop) is (padding == 0)


def test_a_model_that_is_replaced_meanwhile_is_read_for_again(
    serve: Callable[..., Any], bundles: dict[str, Path]
) -> None:
    with serve(float=bundles["float"]) as found:
        repository, asked_for = found.service.repository, []

        def read(asked: Asked, value: Any) -> Answering:
            if not asked_for:
                found.do(repository.unload("float"))
                found.do(repository.load("float"))
            asked_for.append(asked.release)
            return partial(asked.run, {})

        body = b"[]" + b" " * AT_ONCE
        answering = found.do(understand(found.service, body, partial(find, found.service, "float"), read))
        first, second = asked_for
        assert first is not second
        assert answering.func.__self__.release is second is repository.find("float")
