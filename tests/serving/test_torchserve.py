"""TorchServe's inference API, as curl and requests call it."""

from __future__ import annotations

import base64
import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import requests
from onnx import TensorProto, helper

from edgeferry_converter.conversion import convert
from edgeferry_runtime.errors import EdgeferryError

Pictures = np.ndarray[Any, Any]
Png = Callable[[int], bytes]


@pytest.fixture(scope="module")
def url(serve: Callable[..., Any], naming: Path, bundles: dict[str, Path], tmp_path_factory: Any) -> Iterator[str]:
    """A server of ``digits``, which names pictures, of ``blind``, which does not, and of ``sum`` with two inputs."""
    folder = tmp_path_factory.mktemp("sum")
    a, b, c = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("data", "b", "sum"))
    graph = helper.make_graph([helper.make_node("Add", ["data", "b"], ["sum"])], "sum", [a, b], [c])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "sum.onnx")
    made = convert(folder / "sum.onnx", folder / "sum", to="onnx").path
    with serve(digits=naming, blind=bundles["float"], sum=made) as found:
        yield found.http


def found(answer: requests.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def post(url: str, path: str, **options: Any) -> requests.Response:
    return requests.post(f"{url}/predictions/{path}", timeout=30, **options)


def test_a_picture_gives_labels_and_probabilities_whichever_way_it_comes(url: str, png: Png) -> None:
    picture = png(0)
    text = base64.b64encode(picture).decode()
    expected = found(post(url, "digits", data=picture))
    assert len(expected) == 5
    assert list(expected.values()) == sorted(expected.values(), reverse=True)
    assert sum(expected.values()) <= 1.0001
    ways: list[dict[str, Any]] = [
        {"data": picture, "headers": {"Content-Type": "image/png"}},
        {"data": picture, "headers": {"Content-Type": "application/x-www-form-urlencoded"}},  # curl --data-binary
        {"files": {"data": picture}},
        {"files": {"data": ("digit.png", picture, "image/png")}},
        {"json": {"data": text}},
        {"json": {"data": {"b64": text}}},
    ]
    for way in ways:
        assert found(post(url, "digits", **way)) == expected, way
    put = urllib.request.Request(f"{url}/predictions/digits/1.0", picture, method="PUT")  # curl -T
    put.add_unredirected_header("Content-Type", "")
    with urllib.request.urlopen(put, timeout=30) as answer:
        assert json.load(answer) == expected


def test_json_gives_the_outputs_whichever_way_it_comes(url: str, pictures: Pictures) -> None:
    value = pictures[:2].tolist()
    expected = requests.post(f"{url}/v1/models/blind:predict", json={"inputs": value}, timeout=30).json()["outputs"]
    assert list(expected) == ["digit", "features"]
    ways: list[dict[str, Any]] = [
        {"json": value},
        {"json": {"data": value}},
        {"json": {"image": value}},
        {"data": json.dumps(value)},
        {"data": json.dumps({"image": value}), "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        {"data": {"data": json.dumps(value)}},
        {"files": {"data": json.dumps(value)}},
        {"files": {"data": (None, json.dumps(value))}},
    ]
    for way in ways:
        assert found(post(url, "blind", **way)) == expected, way


def test_an_input_may_be_called_data(url: str) -> None:
    assert found(post(url, "sum/1", json={"data": [[1, 2]], "b": [[3, 4]]})) == [[4.0, 6.0]]
    told = found(post(url, "sum/1", json={"data": [[1, 2]]}), 400)
    assert "was given no input b" in told["message"]


def test_labels_that_are_there_twice_are_told_apart() -> None:
    from edgeferry_runtime.classification import Prediction
    from edgeferry_runtime.serving.rest.torchserve import by_label

    twice = [Prediction("crane", 0.5, 134), Prediction("crane", 0.25, 517), Prediction("maillot", 0.125, 638)]
    assert by_label(twice) == {"crane": 0.5, "crane (517)": 0.25, "maillot": 0.125}


def test_ping(url: str) -> None:
    assert found(requests.get(f"{url}/ping", timeout=30)) == {"status": "Healthy"}


def test_the_description_is_the_servers(url: str) -> None:
    told = found(requests.get(f"{url}/api-description", timeout=30))
    assert told == found(requests.get(f"{url}/openapi.json", timeout=30))
    assert "/predictions/{name}" in told["paths"]


def test_ping_tells_what_is_missing(serve: Callable[..., Any], bundles: dict[str, Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(bundles["float"], tmp_path / "other"))
    with serve(float=bundles["float"], other=other) as server:
        repository = server.service.repository
        shutil.rmtree(other)
        server.do(repository.unload("other"))
        with pytest.raises(EdgeferryError):
            server.do(repository.load("other"))
        assert found(requests.get(f"{server.http}/ping", timeout=30), 500) == {"status": "Partial Healthy"}
        server.do(repository.unload("float"))
        assert found(requests.get(f"{server.http}/ping", timeout=30), 500) == {"status": "Unhealthy"}


REFUSED: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("nobody", {"data": b"x"}, 404, "ModelNotFoundException", "model 'nobody': is not here"),
    ("digits/7.0", {"data": b"x"}, 404, "ModelNotFoundException", "version 7 of model 'digits': is not here"),
    ("digits", {"data": b""}, 400, "BadRequestException", "the request: holds nothing"),
    ("digits", {"data": b"GIF89a"}, 400, "BadRequestException", "the picture: "),
    ("digits", {"data": b"[1, 2"}, 400, "BadRequestException", "the body: is no JSON"),
    ("digits", {"json": {"data": "?"}}, 400, "BadRequestException", "a base64 text: cannot be decoded"),
    ("digits", {"json": {"data": "aGFsbG8="}}, 400, "BadRequestException", "the picture: "),
    ("digits", {"json": [1, 2]}, 400, "BadRequestException", "input image: takes float32[?x1x8x8]"),
    ("digits", {"json": {"x": 1}}, 400, "BadRequestException", "input 'x': is none of the model's"),
    ("digits", {"data": {"data": ""}}, 400, "BadRequestException", "the request: holds nothing"),
    (
        "digits",
        {"data": {"data": "x", "b": 1}},
        400,
        "BadRequestException",
        "the form: has other fields than one 'data'",
    ),
    ("digits", {"files": {"file": b"x"}}, 400, "BadRequestException", "has other fields than one 'data': 'file'"),
    ("digits", {"files": {"data": b"x"}, "data": {"a": 1}}, 400, "BadRequestException", "one 'data': 'a', 'data'"),
    (
        "digits",
        {"files": [("data", ("a", b"x")), ("data", ("b", b"y"))]},
        400,
        "BadRequestException",
        "the form: has other fields than one 'data': 'data', 'data'",
    ),
    (
        "digits",
        {"data": b"--x", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "BadRequestException",
        "the form: has no boundary; send a whole one",
    ),
    (
        "blind",
        {"data": b"x"},
        400,
        "BadRequestException",
        "model 'blind': cannot name what a picture shows: it does not say",
    ),
    ("sum", {"json": [1, 2]}, 400, "BadRequestException", "the body: names no inputs, and the model has several"),
]


@pytest.mark.parametrize(
    ("path", "sent", "status", "kind", "said"), REFUSED, ids=[f"{i} {said}" for i, (*_, said) in enumerate(REFUSED)]
)
def test_what_is_wrong_is_named(url: str, path: str, sent: dict[str, Any], status: int, kind: str, said: str) -> None:
    told = found(post(url, path, **sent), status)
    assert said in told["message"]
    assert told == {"error": told["message"], "code": status, "type": kind, "message": told["message"]}


def test_a_form_leaves_no_file_behind(url: str, png: Png, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    padded = png(0) + bytes(3 << 20)  # more than a form's file may take of memory elsewhere
    assert found(post(url, "digits", files={"data": padded})) == found(post(url, "digits", data=png(0)))


@pytest.mark.zoo
def test_a_model_of_others_finds_the_cat(zoo: Path, serve: Callable[..., Any], tmp_path: Path) -> None:
    made = convert(zoo / "coral" / "mobilenet_v1_0.25_128_quant.tflite", tmp_path / "cat")
    picture = zoo / "coral" / "cat.bmp"
    with serve(cat=made.path) as server, picture.open("rb") as file:
        named = found(post(server.http, "cat", data=picture.read_bytes()))
        assert found(post(server.http, "cat/1.0", files={"data": file})) == named
    assert named["Egyptian cat"] == max(named.values())
