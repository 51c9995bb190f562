"""Work in a child process: its result, its errors, what it tells, and its end when nobody waits."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edgeferry_runtime.attended import Attended
from edgeferry_runtime.errors import EngineCrashError, MissingFileError

QUICK = {"num_runs": 2, "warmup_runs": 1, "min_secs": 0.0, "max_warmup_secs": 0.0}


def bench(path: Path, **options: Any) -> dict[str, Any]:
    return {"op": "bench", "bundle": str(path), "options": {**QUICK, **options}, "device": "pi"}


@pytest.mark.slow
def test_a_result_comes_back(artifacts) -> None:
    assert Attended().do(bench(artifacts["pair.onnx"]), "pair")["device"] == "pi"


def test_an_error_comes_back_as_what_it_was(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"none\.onnx"):
        Attended().do(bench(tmp_path / "none.onnx"), "none")


@pytest.mark.slow
def test_what_it_tells_is_passed_on_before_it_is_done(artifacts) -> None:
    told: list[bytes] = []
    done = Attended(told.append).do(bench(artifacts["pair.onnx"], max_load=0.0, max_wait_secs=0.1), "pair")
    assert [list(json.loads(line)) for line in told] == [["progress"]]
    assert "progress" not in done


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_what_nobody_waits_for_is_ended(artifacts, before: bool) -> None:
    work = Attended()
    threading.Timer(0.0 if before else 2.0, work.leave).start()
    started = time.monotonic()
    with pytest.raises(EngineCrashError, match="pair: the process was killed"):
        work.do(bench(artifacts["pair.onnx"], num_runs=10**9, max_secs=60.0), "pair")
    assert time.monotonic() - started < 30
    assert work.alone
