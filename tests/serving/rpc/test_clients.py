"""Other projects' gRPC clients against a model that others trained: what they get is what it gives in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeferry_runtime.model import load
from edgeferry_runtime.serving.rpc import messages

Array = np.ndarray[Any, Any]
MESSAGES = Path(messages.__file__).parent / "protos" / "messages.binpb"
CLIENTS = Path(__file__).parents[1] / "clients"


@pytest.fixture
def kinds(resnet: Path, seen: Array) -> dict[str, Array]:
    """The same pictures as every kind of tensor that the model takes."""
    with load(resnet) as ours:
        (image,) = ours.inputs
    stored = image.quantization.quantize(seen, "int8")
    return {"float": seen.astype(np.float32), "uint8": seen, "int8": stored, "one": seen[:1]}


@pytest.fixture
def expected(resnet: Path, kinds: dict[str, Array]) -> dict[str, Array]:
    """The scores of the pictures, one by one."""
    with load(resnet) as ours:
        (image,), (scores,) = ours.inputs, ours.outputs
        return {
            wanted: np.concatenate([ours.run({image.name: one[None]}, raw=raw)[scores.name] for one in kinds[kind]])
            for wanted, kind, raw in (("real", "float", False), ("stored", "int8", True))
        }


@pytest.fixture
def feeds(resnet: Path, kinds: dict[str, Array], tmp_path: Path) -> Path:
    """A file of them, by the input's name."""
    with load(resnet) as ours:
        name = ours.inputs[0].name
    np.savez(tmp_path / "feeds.npz", **{f"{name}/{kind}": value for kind, value in kinds.items()})
    return tmp_path / "feeds.npz"


def check(answers: Path, expected: dict[str, Array], kinds: dict[str, Array], count: int) -> None:
    """Compare what came back, ``KIND/.../WANTED/OUTPUT``, to the bit."""
    with np.load(answers) as found:
        assert len(found.files) == count
        for key, value in found.items():
            kind, *_, wanted, _ = key.split("/")
            np.testing.assert_array_equal(value, expected[wanted][: len(kinds[kind])], strict=True, err_msg=key)


@pytest.mark.zoo
def test_triton_gets_what_the_model_gives(
    serve: Any, resnet: Path, client: Callable[..., str], feeds: Path, kinds: Any, expected: Any
) -> None:
    answers = feeds.parent / "answers.npz"
    with serve(resnet=resnet) as server:
        said = json.loads(client("oip_grpc.py", server.grpc, "resnet", feeds, answers, MESSAGES))
    check(answers, expected, kinds, 2 * 2 * len(kinds))
    assert said["differences"] == []
    assert (said["health"], said["absent"], said["reloaded"]) == ([True] * 3, [False] * 2, [False, True])
    assert said["server"]["name"] == "edgeferry"
    assert said["model"]["inputs"][0]["shape"] == ["-1", "32", "32", "3"]
    assert said["index"] == {"models": [{"name": "resnet", "version": "1", "state": "READY"}]}
    for row, best in zip(expected["real"], said["classes"], strict=True):
        assert [int(text.split(":")[1]) for text in best] == np.argsort(-row, kind="stable")[:3].tolist()
    assert {why: status.removeprefix("StatusCode.") for why, (status, _) in said["refused"].items()} == {
        "unknown": "NOT_FOUND",
        "late": "DEADLINE_EXCEEDED",
        "shape": "INVALID_ARGUMENT",
        "config": "INVALID_ARGUMENT",
        "loaded": "NOT_FOUND",
        "statistics": "UNIMPLEMENTED",
    }


@pytest.mark.zoo
def test_tensorflow_gets_what_the_model_gives(serve: Any, resnet: Path, feeds: Path, kinds: Any, expected: Any) -> None:
    answers = feeds.parent / "answers.npz"
    with serve(resnet=resnet) as server:
        line = [sys.executable, CLIENTS / "tensorflow_grpc.py", server.grpc, "resnet", feeds, answers, MESSAGES]
        done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    check(answers, expected, kinds, 2 * len(kinds))
    assert said["differences"] == []
    assert set(said["signatures"]["serving_default"].values()) == {"float32"}
    assert set(said["signatures"]["serving_default:stored"].values()) == {"int8"}
    assert said["versions"] == [[1, 30, 0]]
    assert said["unknown"] == ["NOT_FOUND", "model 'absent': is not here; there are: resnet"]
    assert "Sent extra: {more}" in said["extra"][1]
