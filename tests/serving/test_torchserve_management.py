"""TorchServe's management API, on its own port, with a real repository folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from edgeferry_runtime.serving.settings import Execution


def _changes(repository: Path) -> dict[str, Any]:
    """Settings in which nothing is loaded but by a call."""
    return {"repository": repository, "execution": Execution(workers=1), "poll_s": 3600.0}


@pytest.fixture
def server(serve: Callable[..., Any], bundles: dict[str, Path], tmp_path: Path) -> Iterator[Any]:
    """A server of ``digits`` whose repository has ``net``, which is not loaded."""
    with serve(_changes(tmp_path), digits=bundles["float"]) as found:
        shutil.copytree(bundles["onnx"], tmp_path / "net")
        yield found


def call(server: Any, method: str, path: str, status: int = 200, **parameters: Any) -> Any:
    answer = requests.request(method, f"{server.management}{path}", params=parameters, timeout=60)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_models_life(server: Any) -> None:
    told = call(server, "POST", "/models", url="net", model_name="mine", initial_workers=2, synchronous="true")
    assert told == {"status": 'Model "mine" Version: 1.0 registered with 2 initial workers'}
    expected = [
        {
            "modelName": "mine",
            "modelVersion": "1.0",
            "modelUrl": "onnx",
            "engine": "onnx",
            "runtime": "edgeferry",
            "minWorkers": 2,
            "maxWorkers": 2,
            "batchSize": 1,
            "maxBatchDelay": 0.0,
            "loadedAtStartup": False,
            "status": "Healthy",
            "workers": [{"id": str(i), "status": "READY", "gpu": False, "pid": os.getpid()} for i in range(2)],
            "jobQueueStatus": {"remainingCapacity": 64, "pendingRequests": 0},
        }
    ]
    for path in ("/models/mine", "/models/mine/1.0", "/models/mine/1", "/models/mine/all"):
        assert call(server, "GET", path) == expected
    told = call(server, "PUT", "/models/mine", min_worker=3, synchronous="true")
    assert told == {"status": "Workers scaled to 3 for model: mine"}
    told = call(server, "PUT", "/models/mine/1.0/set-default")
    assert told == {"status": 'Default version successfully updated for model "mine" to "1.0"'}
    assert call(server, "DELETE", "/models/mine/1.0") == {"status": 'Model "mine" unregistered'}
    assert [model["modelName"] for model in call(server, "GET", "/models")["models"]] == ["digits"]
    (gone,) = call(server, "GET", "/models/mine/all")
    assert gone == {
        "modelName": "mine",
        "modelVersion": "1.0",
        "status": "Unhealthy",
        "reason": "unloaded",
        "workers": [],
    }
    assert requests.post(f"{server.http}/predictions/mine", json=[], timeout=30).status_code == 503


@pytest.mark.parametrize(
    ("given", "workers"),
    [({}, 1), ({"min_worker": 2}, 2), ({"min_worker": 1, "max_worker": 3}, 1), ({"min_worker": 3, "max_worker": 3}, 3)],
)
def test_scaling_goes_no_further_than_it_must(server: Any, given: dict[str, int], workers: int) -> None:
    told = call(server, "PUT", "/models/digits/1.0", **given)
    assert told == {"status": f"Workers scaled to {workers} for model: digits, version: 1.0"}
    assert call(server, "GET", "/models/digits")[0]["minWorkers"] == workers


def test_the_list_comes_in_pages(server: Any) -> None:
    digits = {"modelName": "digits", "modelUrl": "float"}
    assert call(server, "GET", "/models") == {"models": [digits]}
    call(server, "POST", "/models", url="net")
    assert call(server, "GET", "/models", limit=1) == {"nextPageToken": "1", "models": [digits]}
    last = {"models": [{"modelName": "net", "modelUrl": "onnx"}]}
    assert call(server, "GET", "/models", limit=1, next_page_token=1) == last
    assert call(server, "GET", "/models", limit=1, next_page_token=2) == {"models": []}
    assert len(call(server, "GET", "/models", limit=100_000)["models"]) == 2
    assert call(server, "GET", "/models/digits")[0]["loadedAtStartup"]


REFUSED: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("POST", "/models", {}, 400, "url: is missing"),
    ("POST", "/models", {"url": "nobody"}, 404, "model 'nobody': is not here; there are: digits, net"),
    *(
        ("POST", "/models", {"url": url}, 400, f"url {url!r}: is a path or an address; give the name of a bundle")
        for url in ("/etc/passwd", "../net", "./net", "http://a/net.mar", "file:net", "s3://a", "~/net")
    ),
    *(("POST", "/models", {"url": url}, 400, "cannot be a model's name; give a name") for url in (".", "..", "a\\b")),
    ("POST", "/models", {"url": "net", "model_name": "../x"}, 400, "cannot be a model's name"),
    ("POST", "/models", {"url": "net", "model_name": "digits"}, 409, "model 'digits': is another one already"),
    (
        "POST",
        "/models",
        {"url": "net", "handler": "os:system"},
        400,
        "parameter 'handler': is not taken; there are: url",
    ),
    ("POST", "/models", {"url": "net", "initial_workers": 65}, 400, "65 workers: is not allowed"),
    ("POST", "/models", {"url": "net", "initial_workers": "two"}, 400, "initial_workers: is 'two'; give a number"),
    ("POST", "/models", {"url": "net", "synchronous": "maybe"}, 400, "synchronous: is 'maybe'; give true or false"),
    ("GET", "/models", {"limit": 0}, 400, "limit: is '0'; give a number of at least 1"),
    ("GET", "/models", {"next_page_token": -1}, 400, "next_page_token: is '-1'; give a number of at least 0"),
    ("GET", "/models/nobody", {}, 404, "model 'nobody': is not here"),
    ("GET", "/models/nobody/all", {}, 404, "model 'nobody': is not here"),
    ("GET", "/models/digits/2.0", {}, 404, "version 2 of model 'digits': is not here; there are: 1"),
    ("GET", "/models/digits/x", {}, 404, "is no number"),
    ("PUT", "/models/digits", {"min_worker": 0}, 400, "min_worker: is '0'; give a number of at least 1"),
    ("PUT", "/models/digits", {"min_worker": 3, "max_worker": 2}, 400, "max_worker: is 2, below min_worker 3"),
    ("PUT", "/models/digits", {"min_worker": 1000}, 400, "1000 workers: is not allowed; give 1 to 64"),
    ("PUT", "/models/digits", {"worker": 1}, 400, "parameter 'worker': is not taken"),
    ("PUT", "/models/nobody", {}, 404, "model 'nobody': is not here"),
    ("PUT", "/models/digits/7/set-default", {}, 404, "version 7 of model 'digits': is not here"),
    ("DELETE", "/models/nobody", {}, 404, "model 'nobody': is not here"),
    ("DELETE", "/models/digits/7.0", {}, 404, "version 7 of model 'digits': is not here"),
]


@pytest.fixture(scope="module")
def still(serve: Callable[..., Any], bundles: dict[str, Path], tmp_path_factory: Any) -> Iterator[Any]:
    """A server like `server`, for what changes nothing."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(bundles["onnx"], folder / "net")
    with serve(_changes(folder), digits=bundles["float"]) as found:
        yield found


@pytest.mark.parametrize(
    ("method", "path", "given", "status", "said"), REFUSED, ids=[f"{m} {p} {g}" for m, p, g, *_ in REFUSED]
)
def test_what_is_wrong_is_named(
    still: Any, method: str, path: str, given: dict[str, Any], status: int, said: str
) -> None:
    told = call(still, method, path, status, **given)
    assert said in told["message"]
    assert told["code"] == status
    assert told["type"].endswith("Exception")


def test_management_is_not_on_the_port_of_inference(still: Any) -> None:
    for method, path in (("GET", "/models"), ("DELETE", "/models/digits"), ("PUT", "/models/digits")):
        assert requests.request(method, f"{still.http}{path}", timeout=30).status_code == 404
