"""What would be installed for which Python: one answer for the doctor and for the installation."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_devices.installation import Installation, choose, lack, plan, refusal
from edgeferry_devices.knowing.wheels_known import FORMATS, KNOWN, SERVE, SERVER_PARTS
from edgeferry_devices.platforms import Platform
from edgeferry_runtime.errors import DeviceRequirementError

PI = Platform("/usr/bin/python3", (3, 11, 2), "linux", 64, "aarch64", "glibc 2.36", True)
PI_32 = replace(PI, bits=32, numpy="1.24.2")
PHONE = Platform("/python3", (3, 12, 7), "android", 64, "aarch64", "", True)

platforms = st.builds(
    Platform,
    python=st.just("/p"),
    version=st.tuples(st.just(3), st.integers(8, 16), st.just(1)),
    system=st.sampled_from(["linux", "android", "darwin"]),
    bits=st.sampled_from([32, 64]),
    machine=st.sampled_from(["aarch64", "armv7l", "armv6l", "x86_64", "riscv64"]),
    libc=st.sampled_from(["", "musl", "glibc 2.17", "glibc 2.27", "glibc 2.31", "glibc 2.36", "glibc 3.0", "glibc x"]),
    venv=st.booleans(),
    numpy=st.sampled_from(["", "1.21.5", "1.24.2", "2.1.0", "broken"]),
    engines=st.dictionaries(st.sampled_from(["onnxruntime", "tflite_runtime", "other"]), st.just("1.0")),
)


def test_64_bits() -> None:
    found = plan(PI)
    assert found.formats == ("onnx", "tflite")
    assert found.requirements(["onnx", "tflite"]) == (
        *("numpy>=1.24", "click>=8.1", "pip>=24"),
        *("onnxruntime>=1.20", "ai-edge-litert>=2.1"),
    )
    assert found.requirements(["onnx"])[3:] == ("onnxruntime>=1.20",)
    assert not found.system_site_packages
    assert (found.key, found.environment) == ("cp311-glibc2.36-aarch64", "python 3.11")


def test_older_glibc_gets_the_last_litert_for_it() -> None:
    assert plan(replace(PI, libc="glibc 2.31")).requirements(["tflite"])[3:] == ("ai-edge-litert>=2.1,<2.1.6",)


def test_32_bits_under_a_64_bit_kernel() -> None:
    found = plan(PI_32)
    assert found.formats == ("tflite",)
    assert found.requirements(["tflite"]) == ("click>=8.1", "pip>=24", "tflite-runtime>=2.14")
    assert found.system_site_packages
    assert found.key == "cp311-glibc2.36-armv7l"
    assert refusal(PI_32, "onnx")[0].endswith("ONNX Runtime is not there for 32-bit armv7l")


def test_tags_reach_from_the_devices_glibc_downwards() -> None:
    assert replace(PI, libc="glibc 2.19").tags() == (
        "manylinux_2_19_aarch64",
        "manylinux_2_18_aarch64",
        "manylinux_2_17_aarch64",
        "manylinux2014_aarch64",
        "linux_aarch64",
    )


def test_tflite_runtime_is_labelled_for_a_newer_glibc_than_it_needs() -> None:
    tags = replace(PI_32, libc="glibc 2.31").tags()
    assert tags[0] == "manylinux_2_34_armv7l"
    assert {tag.rpartition("_")[2] for tag in tags} == {"armv7l"}
    assert replace(PI_32, libc="glibc 2.36").tags()[0] == "manylinux_2_36_armv7l"


def test_a_phone_uses_the_engine_that_termux_has() -> None:
    termux = replace(PHONE, numpy="2.2.4", engines={"onnxruntime": "1.22.0"})
    found = plan(termux)
    assert found == Installation(termux, ("click>=8.1", "pip>=24"), {}, {"onnx": "onnxruntime"}, True)
    assert found.requirements(["onnx"]) == found.base
    assert lack(found) is None
    assert plan(replace(termux, imports={"onnxruntime": "signal 4"})).formats == ()
    assert plan(replace(termux, numpy="")).formats == ()


def test_a_phone_without_one_is_told_what_to_type() -> None:
    reason, fix = lack(plan(PHONE)) or ("", "")
    assert reason == "bundles will not run: there are no wheels for Android's C library"
    assert fix.startswith("type in Termux: pkg install proot-distro && ")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": (3, 9, 2)}, "has Python 3.9.2, and 3.10 is the oldest that works"),
        ({"venv": False}, "its Python 3.11.2 lacks the module venv"),
        ({"libc": "musl"}, "bundles will not run: there are no wheels for musl"),
        ({"machine": "riscv64"}, "is not there for 64-bit riscv64"),
        ({"version": (3, 15, 0)}, "needs Python 3.10 to 3.14"),
        ({"libc": "glibc 2.24"}, "needs glibc 2.27"),
    ],
)
def test_what_a_python_lacks(changes: dict, reason: str) -> None:
    assert reason in (lack(plan(replace(PI, **changes))) or ("", ""))[0]


def test_the_server_is_brought_where_it_is_asked_for() -> None:
    found = plan(PI)
    assert SERVE not in found.formats
    assert found.can(SERVE)
    assert found.requirements(["onnx", SERVE]) == (*found.requirements(["onnx"]), *SERVER_PARTS)


def test_the_server_is_what_the_extra_names() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    told = [re.search(rf"^{extra} = \[(.*?)\]$", project, re.M | re.S)[1] for extra in (SERVE, "images")]
    assert sorted(re.findall('"([^"]+[0-9])"', " ".join(told))) == sorted(SERVER_PARTS)


@pytest.mark.parametrize(
    ("platform", "reason", "fix"),
    [
        (PI_32, "grpcio, uvloop and httptools have no wheels for 32-bit armv7l", "install the 64-bit system"),
        (PHONE, "grpcio, uvloop and httptools have no wheels for Android's C library", "serve from another device"),
        (replace(PI, libc="musl"), "the server needs glibc 2.17", "glibc"),
    ],
)
def test_who_cannot_serve_is_told_why(platform: Platform, reason: str, fix: str) -> None:
    assert not plan(platform).can(SERVE)
    told = refusal(platform, SERVE)
    assert told[0] == f"cannot serve: {reason}"
    assert fix in told[1]


def test_choosing() -> None:
    assert choose("pi", [replace(PI, version=(3, 9, 2)), PI]).platform == PI
    with pytest.raises(DeviceRequirementError, match=r"pi: has no Python 3; install"):
        choose("pi", [])
    with pytest.raises(DeviceRequirementError, match=r"pi: bundles will not run: .* Android's C library"):
        choose("pi", [replace(PI, version=(3, 9, 2)), PHONE])
    with pytest.raises(DeviceRequirementError, match=r"pi: has Python 3\.9\.2"):
        choose("pi", [replace(PI, version=(3, 9, 2))])


@given(platforms)
def test_what_is_planned_can_be_had_and_what_cannot_is_explained(platform: Platform) -> None:
    found = plan(platform)
    assert not set(found.brought) & set(found.present)
    assert all(wheels.lack(platform) == "" and wheels in KNOWN for wheels in found.brought.values())
    assert len(found.requirements(found.formats)) == len(found.base) + len(found.brought)
    assert found.can(SERVE) or all(refusal(platform, SERVE))
    for name in set(FORMATS) - set(found.formats):
        assert all(refusal(platform, name))
    reason = lack(found)
    assert (reason is None) <= (bool(found.formats) and platform.venv and platform.version >= (3, 10))
    assert reason is None or all(reason)
    if found.system_site_packages and reason is None:
        assert platform.numpy in ("1.24.2", "2.1.0")
