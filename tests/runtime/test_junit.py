"""JUnit XML that CI servers read."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime.budget import check, parse_budget
from edgeferry_runtime.errors import UnreachableError
from edgeferry_runtime.junit import Suite, write_junit
from edgeferry_runtime.profile import Profile

PROFILE = Profile(
    artifact={"name": "kws", "bundle": "a" * 64, "size_bytes": 4000},
    engine={"name": "onnxruntime", "version": "1.20", "delegate": "cpu"},
    device="pi4",
    machine={"board": "Raspberry Pi 4 Model B Rev 1.4", "arch": "aarch64", "cores": 4},
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
    state_before={"temperature_c": 51.0, "governor": "ondemand"},
    state_after={"temperature_c": 62.5},
    verdict="nothing speaks against these figures",
    timestamp="2026-11-27T04:00:00+00:00",
)
CHILDREN = {
    "testsuites": ["testsuite"],
    "testsuite": ["properties", "testcase"],
    "properties": ["property"],
    "testcase": ["failure", "error", "system-out"],
}
REQUIRED = {
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testcase": {"name", "classname", "time"},
    "property": {"name", "value"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
}
"""What the schemas of Surefire and of the Jenkins plugin have in common, as far as it is used."""


def validate(element: Element) -> None:
    """Hold an element and all below it against the schema."""
    assert REQUIRED.get(element.tag, set()) <= set(element.attrib), element.tag
    order = [CHILDREN.get(element.tag, []).index(child.tag) for child in element]
    assert order == sorted(order)
    if element.tag == "testsuite":
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", element.get("timestamp", "2026-01-01T00:00:00"))
        cases = element.findall("testcase")
        assert int(element.attrib["tests"]) == len(cases)
        assert int(element.attrib["failures"]) == sum(case.find("failure") is not None for case in cases)
        assert int(element.attrib["errors"]) == sum(case.find("error") is not None for case in cases)
        assert float(element.attrib["time"]) >= 0
    for child in element:
        validate(child)


def written(path: Path, *suites: Suite) -> Element:
    write_junit(path, suites)
    root = ElementTree.parse(path).getroot()
    assert root.tag == "testsuites"
    validate(root)
    return root


def test_a_device_is_a_suite_and_a_limit_a_case(tmp_path: Path) -> None:
    verdicts = check([PROFILE], parse_budget("p50=1ms,size=4kB,drop=0.5"))
    failure = UnreachableError("pi5", "port 22 refuses", "is it on?")
    root = written(
        tmp_path / "r.xml", Suite("pi4", [PROFILE], verdicts), Suite("pi5", errors=[("kws", failure)]), Suite("pi3")
    )
    first, second, third = root
    assert [case.get("name") for case in first.findall("testcase")] == [
        "p50 at most 1 ms",
        "size at most 4 kB",
        "drop at most 0.5 points",
    ]
    assert [case.find("failure") is not None for case in first.findall("testcase")] == [True, False, True]
    assert "p50 1.5 ms, at most 1 ms" in str(first.find("testcase/failure").get("message"))  # type: ignore[union-attr]
    error = second.find("testcase/error")
    assert error is not None and error.get("type") == "UnreachableError"
    assert error.text == "pi5: port 22 refuses; is it on?"
    assert third.get("tests") == "0"


def test_the_conditions_are_properties(tmp_path: Path) -> None:
    other = replace(PROFILE, artifact={"name": "vww"})
    root = written(tmp_path / "r.xml", Suite("pi4", [PROFILE, other]))
    found = {p.get("name"): p.get("value") for p in root.iter("property")}
    assert found["board"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert (found["1.artifact"], found["2.artifact"]) == ("kws", "vww")
    assert (found["1.temperature_c_before"], found["1.temperature_c_after"]) == ("51.0", "62.5")
    assert found["1.engine"] == "onnxruntime 1.20"
    assert found["1.verdict"] == "nothing speaks against these figures"
    assert "2026" in found["1.measured"]


@given(device=st.text(), name=st.text(), reason=st.text(st.characters()))
def test_no_name_breaks_it(tmp_path_factory: pytest.TempPathFactory, device: str, name: str, reason: str) -> None:
    profile = replace(PROFILE, device=device, artifact={"name": name}, machine={"board": reason})
    suite = Suite(
        device, [profile], check([profile], parse_budget("size=1B")), [(name, UnreachableError(name, reason, "x"))]
    )
    written(tmp_path_factory.mktemp("x") / "r.xml", suite)


def test_control_characters_are_left_out_and_markup_stays_text(tmp_path: Path) -> None:
    root = written(tmp_path / "r.xml", Suite("pi\x00\x1b[31m\ud800<&\"'>\n]]>"))
    assert root[0].get("name") == "pi[31m<&\"'>\n]]>"


def test_it_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "r.xml"
    path.write_text("old")
    with pytest.raises(AttributeError):
        write_junit(path, [None])  # type: ignore[list-item]
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.xml"]
    write_junit(path, [])
    assert ElementTree.parse(path).getroot().tag == "testsuites"
