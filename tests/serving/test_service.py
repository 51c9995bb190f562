"""The heart: what a call becomes, whatever protocol it came by."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_runtime.errors import DataError
from edgeferry_runtime.serving.refusals import Kind, RefusedError
from edgeferry_runtime.serving.service import Answer, Call

Pictures = np.ndarray[Any, Any]


def infer(server: Any, *args: Any, **options: Any) -> Answer:
    found: Answer = server.do(server.service.infer(Call(*args, **options)))
    return found


@pytest.mark.parametrize("model", ["digits", "float", "onnx"])
def test_an_answer_is_what_the_model_says(
    server: Any, bundles: dict[str, Path], pictures: Pictures, model: str
) -> None:
    from edgeferry_runtime.model import load

    with load(bundles["int8" if model == "digits" else model]) as ours:
        expected = ours.run({"image": pictures[:1]})
    answer = infer(server, model, {"image": pictures[:1]})
    assert list(answer.outputs) == ["digit", "features"]
    assert (answer.release.name, answer.release.version) == (model, 1)
    for name, value in expected.items():
        np.testing.assert_array_equal(answer.outputs[name], value)


def test_several_rows_go_through_a_batch_of_one(server: Any, pictures: Pictures) -> None:
    together = infer(server, "digits", {"image": pictures[:5]}).outputs
    alone = [infer(server, "digits", {"image": pictures[i : i + 1]}).outputs for i in range(5)]
    for name in together:
        np.testing.assert_array_equal(together[name], np.concatenate([one[name] for one in alone]))


def test_stored_values_go_in_and_come_out(server: Any, pictures: Pictures) -> None:
    release = server.service.repository.find("digits")
    (image,) = release.primary.inputs
    digit, _ = release.primary.outputs
    stored = image.quantization.quantize(pictures[:1], image.dtype)
    outputs = infer(server, "digits", {"image": stored}, outputs={"digit": True}).outputs
    real = infer(server, "digits", {"image": pictures[:1]}, outputs={"digit": False}).outputs
    assert outputs["digit"].dtype == np.dtype(digit.dtype)
    np.testing.assert_array_equal(digit.quantization.dequantize(outputs["digit"]), real["digit"])


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        ({"model": "digit"}, Kind.NOT_FOUND, "there are: digits, float, onnx"),
        ({"model": "digits", "version": "7"}, Kind.NOT_FOUND, "version 7 of model 'digits' is not here; there are: 1"),
        ({"model": "digits", "version": "x"}, Kind.NOT_FOUND, "is no number"),
        ({"model": "digits", "signature": "x"}, Kind.NOT_FOUND, "is none of the model's"),
        ({"model": "digits", "outputs": {"x": False}}, Kind.INVALID, "there are: digit, features"),
        ({"model": "digits", "timeout_s": 0.0}, Kind.LATE, "was not done by its deadline"),
    ],
)
def test_what_cannot_be_done_is_refused(
    server: Any, pictures: Pictures, call: dict[str, Any], kind: Kind, said: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        infer(server, **call, feeds={"image": pictures[:1]})
    assert refused.value.kind is kind
    assert said in str(refused.value).replace(": is", " is")


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "was given no input image"),
        ({"image": np.zeros((1, 1, 8, 8), "f4"), "x": np.zeros(1)}, "is none of the model's"),
        ({"image": np.zeros((1, 1, 8, 9), "f4")}, "takes float32"),
        ({"image": np.zeros((0, 1, 8, 8), "f4")}, "have no rows"),
        ({"image": np.full((1, 1, 8, 8), np.nan, "f4")}, "holds NaN"),
    ],
)
def test_feeds_that_do_not_fit_are_named(server: Any, feeds: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        infer(server, "digits", feeds)


def test_many_at_once_are_never_mixed_up(server: Any, pictures: Pictures) -> None:
    alone = [infer(server, "digits", {"image": pictures[i : i + 1]}).outputs["digit"] for i in range(16)]

    async def together() -> list[Answer]:
        calls = [server.service.infer(Call("digits", {"image": pictures[i % 16 : i % 16 + 1]})) for i in range(48)]
        return await asyncio.gather(*calls)

    for i, answer in enumerate(server.do(together())):
        np.testing.assert_array_equal(answer.outputs["digit"], alone[i % 16])
