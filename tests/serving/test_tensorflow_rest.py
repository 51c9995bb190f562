"""TensorFlow Serving's REST API, by the shapes that its documentation prints, over HTTP."""

from __future__ import annotations

import base64
import gzip
import json
import runpy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeferry_converter.conversion import convert
from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.serving.settings import Execution

Pictures = np.ndarray[Any, Any]
TINY = Path(__file__).parents[1] / "runtime" / "tiny_models.py"
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def _save(path: Path, nodes: list[Any], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> Path:
    sides = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    constants = [helper.make_tensor("last", TensorProto.INT64, [1], [1])]
    graph = helper.make_graph(nodes, "graph", *sides, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def sums(serve: Callable[..., Any], naming: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of ``pair``: a [n, 2] and b [n, 1] to their sum y [n, 1]; ``loose``: x [n, 2] and its sum without rows;
    ``whole``: the sum of x as [1, 1]; ``two``, of two signatures; and ``named``, which names pictures.
    """
    folder = tmp_path_factory.mktemp("sums")
    nodes = [helper.make_node("ReduceSum", ["a", "last"], ["s"]), helper.make_node("Add", ["s", "b"], ["y"])]
    pair = _save(folder / "pair.onnx", nodes, {"a": ["n", 2], "b": ["n", 1]}, {"y": ["n", 1]})
    nodes = [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0)]
    loose = _save(folder / "loose.onnx", nodes, {"x": ["n", 2]}, {"same": ["n", 2], "total": []})
    nodes = [helper.make_node("ReduceSum", ["x"], ["total"])]
    whole = _save(folder / "whole.onnx", nodes, {"x": ["n", 2]}, {"total": [1, 1]})
    made = {path.stem: convert(path, folder / path.stem, to="onnx").path for path in (pair, loose, whole)}
    (folder / "two.tflite").write_bytes(runpy.run_path(str(TINY))["tflite_two_signatures"]())
    made["two"] = convert(folder / "two.tflite", folder / "two").path
    with serve(**made, named=naming) as found:
        yield f"{found.http}/v1/models"


@pytest.fixture(scope="module")
def models(server: Any) -> str:
    """The address of the models of all tests."""
    return f"{server.http}/v1/models"


def ask(url: str, body: Any, status: int = 200) -> Any:
    answer = requests.post(url, data=body if isinstance(body, (str, bytes)) else json.dumps(body), timeout=30)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def test_status_as_documented(models: str) -> None:
    expected = {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    assert requests.get(f"{models}/digits", timeout=30).json() == expected
    for version in ("1", "01"):
        assert requests.get(f"{models}/digits/versions/{version}", timeout=30).json() == expected


def test_status_tells_what_is_wrong(serve: Callable[..., Any], bundles: dict[str, Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(bundles["float"], tmp_path / "other"))
    with serve(other=other) as found:
        url = f"{found.http}/v1/models/other"
        found.do(found.service.repository.unload("other"))
        (status,) = requests.get(url, timeout=30).json()["model_version_status"]
        assert status == {"version": "1", "state": "END", "status": {"error_code": "OK", "error_message": ""}}
        (other / "model.tflite").write_bytes(b"not any more")
        with pytest.raises(EdgeferryError):
            found.do(found.service.repository.load("other"))
        told, *_ = requests.get(url, timeout=30).json()["model_version_status"]
        assert (told["state"], told["status"]["error_code"]) == ("END", "UNKNOWN")
        assert "model.tflite" in told["status"]["error_message"]
        assert str(tmp_path) not in told["status"]["error_message"]
        assert ask(f"{url}:predict", {"inputs": [1]}, 503)["error"] == "model 'other': is unavailable; try again later"


def test_metadata_as_tensorflow_serving_prints_it(models: str) -> None:
    found = requests.get(f"{models}/digits/versions/1/metadata", timeout=30).json()
    assert found["model_spec"] == {"name": "digits", "signature_name": "", "version": "1"}
    defined = found["metadata"]["signature_def"]["signature_def"]
    assert list(defined) == ["serving_default", "serving_default:stored"]
    real, stored = defined.values()
    dims = [{"size": size, "name": ""} for size in ("-1", "10")]
    digit = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": "digit:0"}
    assert real["outputs"]["digit"] == digit
    assert stored["outputs"]["digit"] == digit | {"dtype": "DT_INT8"}
    assert list(real["inputs"]) == ["image"]
    assert real["method_name"] == "tensorflow/serving/predict"


def test_a_model_without_quantization_has_no_stored_signature(models: str) -> None:
    found = requests.get(f"{models}/onnx/metadata", timeout=30).json()
    assert list(found["metadata"]["signature_def"]["signature_def"]) == ["serving_default"]


@pytest.mark.parametrize("kind", ["digits", "float", "onnx"])
def test_predict_answers_what_the_model_says(server: Any, models: str, pictures: Pictures, kind: str) -> None:
    from edgeferry_runtime.serving.service import Call

    expected = server.do(server.service.infer(Call(kind, {"image": pictures[:3]}))).outputs
    found = ask(f"{models}/{kind}:predict", {"inputs": pictures[:3].tolist()})["outputs"]
    assert list(found) == ["digit", "features"]
    for name, value in expected.items():
        np.testing.assert_array_equal(np.array(found[name], np.float32), value)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.integers(0, 63), min_size=1, max_size=5), named=st.booleans(), stored=st.booleans())
def test_rows_and_columns_say_the_same(
    models: str, pictures: Pictures, chosen: list[int], named: bool, stored: bool
) -> None:
    sent = (np.rint(pictures[chosen] * 100).astype(int) if stored else pictures[chosen]).tolist()
    signature = {"signature_name": "serving_default:stored"} if stored else {}
    by_row = {"instances": [{"image": picture} for picture in sent] if named else sent}
    by_column = {"inputs": {"image": sent} if named else sent}
    predictions = ask(f"{models}/digits:predict", by_row | signature)["predictions"]
    outputs = ask(f"{models}/digits:predict", by_column | signature)["outputs"]
    assert len(predictions) == len(chosen)
    assert {name: [row[name] for row in predictions] for name in outputs} == outputs


def test_stored_integers_are_those_of_the_runtime(server: Any, models: str, pictures: Pictures) -> None:
    lane = server.service.repository.find("digits").primary
    (image,), (digit, _) = lane.inputs, lane.outputs
    sent = image.quantization.quantize(pictures[:2], image.dtype).tolist()
    stored = ask(f"{models}/digits:predict", {"inputs": sent, "signature_name": "serving_default:stored"})["outputs"]
    real = ask(f"{models}/digits:predict", {"inputs": pictures[:2].tolist()})["outputs"]
    np.testing.assert_array_equal(
        digit.quantization.dequantize(np.array(stored["digit"], digit.dtype)), np.array(real["digit"], np.float32)
    )


def test_several_inputs_are_named_and_the_only_output_is_not(sums: str) -> None:
    rows = [{"a": [1, 2], "b": [3]}, {"b": [0.5], "a": [4, 5]}]
    assert ask(f"{sums}/pair:predict", {"instances": rows}) == {"predictions": [[6.0], [9.5]]}
    columns = {"a": [[1, 2], [4, 5]], "b": [[3], [0.5]]}
    assert ask(f"{sums}/pair:predict", {"inputs": columns}) == {"outputs": [[6.0], [9.5]]}


def test_signatures_have_the_names_of_the_model_and_the_first_is_the_default(sums: str) -> None:
    found = requests.get(f"{sums}/two/metadata", timeout=30).json()["metadata"]["signature_def"]["signature_def"]
    assert list(found) == ["serving_default", "double", "zero"]
    assert found["serving_default"] == found["double"]
    for name in ("", "serving_default", "double"):
        assert ask(f"{sums}/two:predict", {"inputs": [[1, 2, 3, 4]], "signature_name": name}) == {
            "outputs": [[2.0, 4.0, 6.0, 8.0]]
        }
    zero = {"instances": [[1, 2, 3]], "signature_name": "zero"}
    assert ask(f"{sums}/two:predict", zero) == {"predictions": [[0.0, 0.0, 0.0]]}
    told = ask(f"{sums}/two:predict", {"inputs": [1], "signature_name": "one"}, 404)["error"]
    assert told == "signature 'one': is none of the model's; there are: double, zero"


def test_nan_and_infinity_go_in_and_out_as_tokens(sums: str) -> None:
    body = '{"inputs": {"a": [[Infinity, 1], [Infinity, -Infinity]], "b": [[0], [0]]}}'
    found = np.array(ask(f"{sums}/pair:predict", body)["outputs"]).ravel()
    np.testing.assert_array_equal(found, [np.inf, np.nan])


def test_an_output_without_rows_needs_columns(sums: str) -> None:
    told = ask(f"{sums}/loose:predict", {"instances": [[1, 2]]}, 400)["error"]
    assert "no common number of rows (same 1, total has none); ask in column format" in told
    outputs = ask(f"{sums}/loose:predict", {"inputs": [[1, 2], [3, 4]]})["outputs"]
    assert outputs == {"same": [[1.0, 2.0], [3.0, 4.0]], "total": 10.0}


def test_classify_takes_flat_features_and_gives_every_label(models: str, pictures: Pictures) -> None:
    examples = [{"image": picture.ravel().tolist()} for picture in pictures[:2]]
    results = ask(f"{models}/float:classify", {"examples": examples})["results"]
    outputs = np.array(ask(f"{models}/float:predict", {"inputs": pictures[:2].tolist()})["outputs"]["digit"])
    for ranked, scores in zip(results, outputs, strict=True):
        assert [score for _, score in ranked] == sorted(scores, reverse=True)
        assert dict(ranked) == dict(zip(DIGITS, scores, strict=True))
    nested = {"examples": [{"image": pictures[0].tolist()}]}
    assert ask(f"{models}/float:classify", nested)["results"] == results[:1]


def test_classify_names_pictures(sums: str, png: Callable[[int], bytes]) -> None:
    examples = [{"image": {"b64": base64.b64encode(png(index)).decode()}} for index in (0, 1)]
    results = ask(f"{sums}/named:classify", {"examples": examples})["results"]
    assert [len(ranked) for ranked in results] == [10, 10]
    for ranked, index in zip(results, (0, 1), strict=True):
        assert {label for label, _ in ranked} == set(DIGITS)
        alone = ask(f"{sums}/named:classify", {"examples": [examples[index]]})["results"]
        assert ranked == alone[0]


def test_more_pictures_than_may_wait_are_classified_one_after_the_other(
    serve: Callable[..., Any], naming: Path, png: Callable[[int], bytes]
) -> None:
    example = {"image": {"b64": base64.b64encode(png(0)).decode()}}
    with serve({"execution": Execution(workers=2, queue=2)}, named=naming) as found:
        url = f"{found.http}/v1/models/named:classify"
        (alone,) = ask(url, {"examples": [example]})["results"]
        assert ask(url, {"examples": [example] * 5})["results"] == [alone] * 5
        assert ask(url, {"context": example, "examples": [{}] * 3})["results"] == [alone] * 3


def test_regress_gives_one_number_an_example_with_what_is_common(sums: str) -> None:
    body = {"context": {"b": 10}, "examples": [{"a": [1, 2]}, {"a": [3, 4]}]}
    assert ask(f"{sums}/pair:regress", body) == {"results": [13.0, 17.0]}
    examples = [{"x": [1, 2]}, {"x": [3, 4]}]
    assert ask(f"{sums}/whole:regress", {"examples": examples[:1]}) == {"results": [3.0]}
    told = ask(f"{sums}/whole:regress", {"examples": examples}, 400)["error"]
    assert told == "output total: has the shape [1, 1] for 2 examples; use :predict"


def test_a_large_body_and_a_compressed_one_are_read_too(models: str, pictures: Pictures) -> None:
    rows = pictures[:1].tolist()
    (expected,) = ask(f"{models}/float:predict", {"instances": rows})["predictions"]
    padded = json.dumps({"instances": rows}).encode() + b" " * (2 << 20)
    assert ask(f"{models}/float:predict", padded)["predictions"] == [expected]
    answer = requests.post(
        f"{models}/float:predict", gzip.compress(padded), headers={"Content-Encoding": "gzip"}, timeout=30
    )
    assert answer.json()["predictions"] == [expected]


REFUSED: list[tuple[str, Any, int, str]] = [
    ("digits:predict", "{", 400, "the body: is no JSON"),
    ("digits:predict", [1], 400, "the body: is no JSON object"),
    ("digits:predict", {}, 400, "needs one of 'instances' and 'inputs'"),
    ("digits:predict", {"instances": [1], "inputs": [1]}, 400, "needs one of 'instances' and 'inputs'"),
    ("digits:predict", {"instances": []}, 400, "'instances': is no list with an item for each row"),
    ("digits:predict", {"instances": {"image": 1}}, 400, "'instances': is no list with an item for each row"),
    ("digits:predict", {"instances": [[1, 2], [3]]}, 400, "input image: is a ragged list"),
    ("digits:predict", {"instances": [["a"]]}, 400, "input image: holds something else than numbers"),
    ("digits:predict", {"instances": [{"b64": "aGk="}]}, 400, "input image: holds something else than numbers"),
    ("digits:predict", {"instances": [1.5]}, 400, "input image: takes float32[?x1x8x8], and was given float64[1]"),
    ("digits:predict", {"inputs": {"x": [1]}}, 400, "input 'x': is none of the model's; there are: image"),
    ("digits:predict", {"inputs": {}}, 400, "was given no input image"),
    ("digits:predict", {"instances": [{"image": 1}, 2]}, 400, "instance 1: is no object of values by name"),
    ("digits:predict", {"instances": [2, {"image": 1}]}, 400, "instance 0: is no object of values by name"),
    ("digits:predict", {"instances": [{"image": 1}, {"x": 1}]}, 400, "instance 1: has other names than instance 0"),
    ("digits:predict", {"inputs": [1], "signature_name": "x"}, 404, "signature 'x': is none of the model's"),
    ("digits:predict", {"inputs": [1], "signature_name": 1}, 400, "signature_name: is no string"),
    ("digits:explain", {}, 404, "verb 'explain': is unknown; there are :predict, :classify, :regress"),
    ("digits", {}, 404, "verb '': is unknown; there are :predict, :classify, :regress"),
    ("digits/metadata:predict", {}, 404, "the path: is none of TensorFlow Serving's"),
    ("digits/labels/stable:predict", {}, 400, "label 'stable': cannot be used: versions have no labels here"),
    ("digits/versions/9:predict", {"inputs": [1]}, 404, "version 9 of model 'digits': is not here; there are: 1"),
    ("digits/versions/x:predict", {"inputs": [1]}, 404, "is no number"),
    ("digits/of/1:predict", {}, 404, "the path: is none of TensorFlow Serving's"),
    ("nobody:predict", {"inputs": [1]}, 404, "model 'nobody': is not here; there are: digits, float, onnx"),
    ("digits:classify", {}, 400, "'examples': is no list of objects"),
    ("digits:classify", {"examples": [1]}, 400, "example 0: is no object"),
    ("digits:classify", {"examples": [{}], "context": []}, 400, "'context': is no object"),
    ("digits:classify", {"examples": [{"x": 1}], "context": {"x": 1}}, 400, "example 0: names what 'context' has"),
    ("digits:classify", {"examples": [{"image": [1, 2]}]}, 400, "input image: is given 2 values an example; it takes"),
    (
        "digits:classify",
        {"examples": [{"image": {"b64": "aGk="}}]},
        400,
        "model 'digits': cannot name what a picture shows: it",
    ),
    ("digits:classify", {"examples": [{"image": {"b64": "?"}}]}, 400, "a base64 text: cannot be decoded"),
    ("digits:regress", {"examples": [{"image": [1]}]}, 400, "which is not one number an example; use :predict"),
]


@pytest.mark.parametrize(("path", "body", "status", "said"), REFUSED, ids=[f"{p}-{s}" for p, _, _, s in REFUSED])
def test_what_is_wrong_is_named(models: str, path: str, body: Any, status: int, said: str) -> None:
    assert said in ask(f"{models}/{path}", body, status)["error"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("pair:predict", {"inputs": [1]}, "'inputs': names no inputs, and the model has several; name them: a, b"),
        ("pair:predict", {"instances": [1]}, "'instances': names no inputs, and the model has several"),
        ("pair:predict", {"instances": [{"a": [1, 2]}]}, "was given no input b"),
        ("pair:classify", {"examples": [{"a": [1, 2], "b": 1}]}, "model 'pair': has no labels; use :predict"),
        ("pair:predict", {"inputs": {"a": [[1e39, 0]], "b": [[0]]}}, "input a: takes float32[?x2], and was given"),
        ("named:classify", {"examples": [{"image": {"b64": "aGk="}}]}, "the picture"),
    ],
)
def test_what_a_model_cannot_do_is_said(sums: str, path: str, body: Any, said: str) -> None:
    assert said in ask(f"{sums}/{path}", body, 400)["error"]


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("nobody", 404, "model 'nobody': is not here"),
        ("digits/versions/9", 404, "version 9 of model 'digits': is not here"),
        ("digits/versions/9/metadata", 404, "version 9 of model 'digits': is not here"),
        ("digits:predict", 405, "verb 'predict': was asked for by GET; use POST"),
        ("digits/labels/stable", 400, "label 'stable': cannot be used"),
    ],
)
def test_what_cannot_be_told_is_refused(models: str, path: str, status: int, said: str) -> None:
    answer = requests.get(f"{models}/{path}", timeout=30)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text


def test_a_tensor_that_is_too_large_is_refused(serve: Callable[..., Any], bundles: dict[str, Path]) -> None:
    from edgeferry_runtime.serving.settings import Limits

    with serve({"limits": Limits(tensor_bytes=1000)}, float=bundles["float"]) as found:
        body = {"instances": np.zeros((4, 1, 8, 8)).tolist()}
        told = ask(f"{found.http}/v1/models/float:predict", body, 413)["error"]
    assert told == "tensor 'image': would have 1024 bytes, and 1000 are allowed; send less at a time"


@pytest.mark.zoo
def test_a_model_of_others_finds_the_cat(zoo: Path, serve: Callable[..., Any], tmp_path: Path) -> None:
    from PIL import Image

    coral = zoo / "coral"
    made = convert(coral / "mobilenet_v1_0.25_128_quant.tflite", tmp_path / "cat")
    pixels = np.asarray(Image.open(coral / "cat.bmp").convert("RGB").resize((128, 128), Image.Resampling.BILINEAR))
    with serve(cat=made.path) as found:
        url = f"{found.http}/v1/models/cat"
        stored = {"instances": [pixels.tolist()], "signature_name": "serving_default:stored"}
        (scores,) = ask(f"{url}:predict", stored)["predictions"]
        (reals,) = ask(f"{url}:predict", {"instances": [((pixels - 128.0) / 128).tolist()]})["predictions"]
        file = base64.b64encode((coral / "cat.bmp").read_bytes()).decode()
        (ranked,) = ask(f"{url}:classify", {"examples": [{"input": {"b64": file}}]})["results"]
        (flat,) = ask(f"{url}:classify", {"examples": [{"input": ((pixels - 128.0) / 128).ravel().tolist()}]})[
            "results"
        ]
    assert scores[286] == max(scores)
    np.testing.assert_array_equal(np.array(reals), np.array(scores) / 256)
    assert len(ranked) == 1001
    assert "Egyptian cat" in [label for label, score in ranked if score == ranked[0][1]]
    assert flat[0][1] == max(reals)
