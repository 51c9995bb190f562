"""What an engine is too old for is named, by the engine's own words."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeferry_runtime.engines.litert_refusals import refusal
from edgeferry_runtime.errors import EngineError
from edgeferry_runtime.model import load

PATH = Path("model.tflite")


def test_an_operator_version_that_the_engine_lacks_is_named_with_the_engine(tiny, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(tiny.tflite_dense(4, 1, version=99))
    with pytest.raises(EngineError, match=r"needs FULLY_CONNECTED version 99, which \w+ [\d.]+ does not have") as error:
        load(path)
    assert error.value.fix == "run it with a newer ai-edge-litert"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "Op builtin_code out of range: 206. Are you using old",
            "needs operator 206 of the schema, which old 1.0 ",
        ),
        ("Encountered unresolved custom op: Warp.\nSee", "needs the custom operator Warp, which LiteRT does"),
        ("Node 0\n  failed", "LiteRT refuses it: Node 0 failed"),
    ],
)
def test_other_refusals(said: str, reason: str) -> None:
    assert refusal(PATH, ValueError(said), "old 1.0").reason.startswith(reason)
