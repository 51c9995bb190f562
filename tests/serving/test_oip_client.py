"""Triton's HTTP client against models that others trained: what it gets is what the model gives in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_runtime.model import load

Array = np.ndarray[Any, Any]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.zoo
def test_triton_gets_what_the_model_gives(
    serve: Any, resnet: Path, seen: Array, client: Callable[..., str], tmp_path: Path
) -> None:
    with load(resnet) as ours:
        (image,), (scores,) = ours.inputs, ours.outputs
        stored = image.quantization.quantize(seen, "int8")
        expected = {
            "real": np.concatenate([ours.run({image.name: one[None]})[scores.name] for one in seen]),
            "stored": np.concatenate([ours.run({image.name: one[None]}, raw=True)[scores.name] for one in stored]),
        }
    feeds = {"float": seen.astype(np.float32), "uint8": seen, "int8": stored, "one": seen[:1]}
    np.savez(tmp_path / "feeds.npz", **{f"{image.name}/{kind}": value for kind, value in feeds.items()})
    with serve(resnet=resnet) as server:
        address = server.http.removeprefix("http://")
        said = json.loads(client("oip_http.py", address, "resnet", tmp_path / "feeds.npz", tmp_path / "answers.npz"))
    with np.load(tmp_path / "answers.npz") as answers:
        assert len(answers.files) == len(feeds) * 4 * 2
        for key, value in answers.items():
            kind, _, wanted, output = key.split("/")
            np.testing.assert_array_equal(value, expected[wanted][: len(feeds[kind])], strict=True, err_msg=key)
            assert output == scores.name
    check_told(said, expected["real"])


def check_told(said: dict[str, Any], scores: Array) -> None:
    """Compare what the client printed."""
    assert (said["health"], said["absent"], said["reloaded"]) == ([True] * 3, [False] * 2, [False, True])
    assert said["server"]["name"] == "edgeferry"
    assert said["model"]["inputs"][0]["shape"] == [-1, 32, 32, 3]
    assert said["model"]["inputs"][0]["parameters"]["stored_datatype"] == "INT8"
    assert said["index"] == [{"name": "resnet", "version": "1", "state": "READY", "reason": ""}]
    assert said["id"] == "mine"
    for row, best in zip(scores, said["classes"], strict=True):
        order = np.argsort(-row, kind="stable")[:3]
        assert best == [f"{row[i]}:{i}:{CLASSES[i]}" for i in order]
    refused = said["refused"]
    assert {why: status for why, (status, _) in refused.items()} == {
        "unknown": "404",
        "late": "504",
        "shape": "400",
        "config": "400",
        "loaded": "404",
    }
    assert refused["unknown"][1] == "model 'absent': is not here; there are: resnet"
    assert "brings 'config'" in refused["config"][1]
