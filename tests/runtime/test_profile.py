"""Profiles: versioned JSON, whole after a round trip."""

from __future__ import annotations

import json

import pytest

from edgeferry_runtime.errors import DataError
from edgeferry_runtime.profile import SCHEMA, Profile

PROFILE = Profile(
    artifact={"name": "tiny"},
    engine={"name": "onnxruntime"},
    device="local",
    machine={"cores": 2},
    init_ms=1.0,
    first_inference_ms=2.0,
    num_runs=2,
    warmup_runs=1,
    mean_ms=1.5,
    stddev_ms=0.5,
    min_ms=1.0,
    max_ms=2.0,
    p5_ms=1.0,
    median_ms=1.5,
    p90_ms=2.0,
    p95_ms=2.0,
    p99_ms=2.0,
    median_ms_ci95=(1.0, 2.0),
    samples_ms=(1.0, 2.0),
    warnings=("busy",),
)


def test_json_round_trip() -> None:
    assert Profile.from_dict(json.loads(json.dumps(PROFILE.to_dict()))) == PROFILE


def test_schema_is_said_first_and_checked() -> None:
    data = PROFILE.to_dict()
    assert next(iter(data)) == "schema"
    assert data["schema"] == SCHEMA
    with pytest.raises(DataError, match="schema 99"):
        Profile.from_dict({**data, "schema": 99})


def test_an_incomplete_profile_is_refused_and_a_newer_key_ignored() -> None:
    data = PROFILE.to_dict()
    assert Profile.from_dict({**data, "from_the_future": 1}) == PROFILE
    del data["median_ms"]
    with pytest.raises(DataError, match="median_ms"):
        Profile.from_dict(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("median_ms", float("nan")),
        ("median_ms", "1.5"),
        ("median_ms", True),
        ("median_ms", None),
        ("num_runs", 2.5),
        ("p90_ms", float("inf")),
        ("median_ms_ci95", [1.0]),
        ("median_ms_ci95", [1.0, "2"]),
        ("samples_ms", 1.0),
        ("samples_ms", [1.0, float("nan")]),
        ("samples_ms", [[1.0]]),
        ("device", 7),
        ("machine", ["cores"]),
        ("marks", [1]),
        ("warnings", "busy"),
        ("artifact", {}),
        ("engine", {"name": 1}),
    ],
)
def test_a_value_that_cannot_be_one_is_named(key: str, value: object) -> None:
    with pytest.raises(DataError, match=f"damaged: {key} ="):
        Profile.from_dict({**PROFILE.to_dict(), key: value})


@pytest.mark.parametrize("key", ["p90_ms", "p99_ms", "median_ms_ci95", "rss_bytes", "partitions"])
def test_what_a_foreign_program_does_not_tell_is_absent(key: str) -> None:
    assert getattr(Profile.from_dict({**PROFILE.to_dict(), key: None}), key) is None
