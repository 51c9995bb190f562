"""The flags of ``benchmark_model``."""

from __future__ import annotations

from typing import Any

import pytest

from edgeferry_devices.foreign.flags import bench_flags, delegate_flags
from edgeferry_runtime.errors import UsageError
from edgeferry_runtime.measurement.options import BenchOptions


def test_flags_have_our_names() -> None:
    wanted = BenchOptions(num_runs=7, warmup_runs=3, min_secs=0.5, max_secs=20, delegate="cpu:4")
    told = ["--num_runs=7", "--warmup_runs=3", "--min_secs=0.5", "--max_secs=20", "--num_threads=4"]
    assert bench_flags(wanted) == told
    assert "--warmup_min_secs=0" in bench_flags(BenchOptions(max_warmup_secs=0))


@pytest.mark.parametrize(
    ("delegate", "flags"),
    [
        ("cpu", []),
        ("cpu:2", ["--num_threads=2"]),
        ("gpu", ["--use_gpu=true"]),
        ("npu", ["--use_nnapi=true"]),
        ("/data/local/tmp/libx.so", ["--external_delegate_path=/data/local/tmp/libx.so"]),
        (
            "/x/lib.so?a=1&b=c",
            ["--external_delegate_path=/x/lib.so", "--external_delegate_options=a:1;b:c"],
        ),
    ],
)
def test_where_to_execute(delegate: str, flags: list[str]) -> None:
    assert delegate_flags(BenchOptions(delegate=delegate)) == flags


def test_full_delegation() -> None:
    wanted = BenchOptions(delegate="gpu", require_full_delegation=True)
    assert delegate_flags(wanted) == ["--use_gpu=true", "--require_full_delegation=true"]


@pytest.mark.parametrize(
    "delegate", ["gpu:webgpu", "npu:qnn", "edgetpu", "edgetpu:usb:0", "cpu:openvino", "/l.so?a=b:c"]
)
def test_what_it_has_no_flag_for(delegate: str) -> None:
    with pytest.raises(UsageError, match="has no flag of benchmark_model"):
        delegate_flags(BenchOptions(delegate=delegate))


def test_an_order_of_preference() -> None:
    with pytest.raises(UsageError, match="takes one delegate; give one, such as gpu"):
        delegate_flags(BenchOptions(delegate="gpu,cpu"))


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--sustained", {"sustained_secs": 5.0}),
        ("--cool-to", {"cool_to": 50.0}),
        ("--max-load", {"max_load": 0.5}),
        ("--ops", {"ops": True}),
    ],
)
def test_what_our_runtime_does_alone(option: str, values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"{option}: is what our runtime does"):
        bench_flags(BenchOptions(**values))
