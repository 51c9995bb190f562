"""Verdicts as JUnit XML, which CI servers show: a suite for each device, a case for each limit.

The form is that of Maven's Surefire and of the Jenkins plugin: ``testsuites`` / ``testsuite`` / ``properties``, then
``testcase`` with ``failure`` where a limit does not hold, and ``error`` where a device could not be measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from edgeferry_runtime.budget import Verdict
from edgeferry_runtime.errors import EdgeferryError
from edgeferry_runtime.profile import Profile
from edgeferry_runtime.whole import whole_file

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MACHINE = ("board", "arch", "cores", "os", "kernel", "python")
STATE = ("temperature_c", "frequency_mhz", "governor", "load1")

_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, not even escaped."""


@dataclass(frozen=True)
class Suite:
    """What became of one device.

    Attributes:
        device: Its name.
        profiles: What was measured there.
        verdicts: What became of each limit.
        errors: What kept it from being measured, by what was to be measured.
    """

    device: str
    profiles: Sequence[Profile] = ()
    verdicts: Sequence[Verdict] = ()
    errors: Sequence[tuple[str, EdgeferryError]] = ()


def write_junit(path: Path, suites: Sequence[Suite]) -> None:
    """Write a file of JUnit XML, whole or not at all.

    Args:
        path: The file; an older one is replaced.
        suites: What became of each device.

    Raises:
        OSError: If it cannot be written.
    """
    with whole_file(path) as stream:
        ElementTree.ElementTree(_report(suites)).write(stream, encoding="utf-8", xml_declaration=True)


def _report(suites: Sequence[Suite]) -> Element:
    root = ElementTree.Element("testsuites", name="ferry")
    root.extend([_suite(suite) for suite in suites])
    ElementTree.indent(root)
    return root


def _suite(suite: Suite) -> Element:
    cases = [*(_case(verdict) for verdict in suite.verdicts), *(_error(*error) for error in suite.errors)]
    counts = {
        "tests": len(cases),
        "failures": sum(not verdict.passed for verdict in suite.verdicts),
        "errors": len(suite.errors),
        "skipped": 0,
    }
    seconds = sum(sum(profile.samples_ms) for profile in suite.profiles) / 1e3
    told = {"name": suite.device, **counts, "time": f"{seconds:.3f}"}
    if suite.profiles and suite.profiles[0].timestamp:
        told["timestamp"] = suite.profiles[0].timestamp[:19]
    element = _element("testsuite", told)
    properties = _element("properties")
    conditions = _conditions(suite.profiles)
    properties.extend([_element("property", {"name": key, "value": value}) for key, value in conditions])
    element.append(properties)
    element.extend(cases)
    return element


def _conditions(profiles: Sequence[Profile]) -> Iterator[tuple[str, object]]:
    """Say how it was measured: the machine once, and the rest for each profile."""
    for key in MACHINE if profiles else ():
        if profiles[0].machine.get(key) is not None:
            yield key, profiles[0].machine[key]
    for number, profile in enumerate(profiles, 1):
        for key, value in _of_one(profile).items():
            yield f"{number}.{key}", value


def _of_one(profile: Profile) -> dict[str, object]:
    artifact, engine = profile.artifact, profile.engine
    states = {"before": profile.state_before, "after": profile.state_after}
    return {
        "artifact": artifact.get("name"),
        "bundle": artifact.get("bundle") or "",
        "engine": f"{engine.get('name')} {engine.get('version')}",
        "delegate": engine.get("delegate"),
        "runs": profile.num_runs,
        "median_ms": f"{profile.median_ms:.6g}",
        "median_ms_ci95": " to ".join(f"{bound:.6g}" for bound in profile.median_ms_ci95 or ()),
        **{f"{key}_{when}": state[key] for when, state in states.items() for key in STATE if key in state},
        "verdict": profile.verdict,
        "measured": profile.timestamp,
        "edgeferry": profile.edgeferry_version,
    }


def _case(verdict: Verdict) -> Element:
    case = _element("testcase", {"classname": verdict.artifact, "name": f"{verdict.limit.key} {verdict.limit}"})
    case.set("time", "0")
    if not verdict.passed:
        case.append(_told("failure", str(verdict), "budget"))
    elif verdict.notes:
        case.append(_element("system-out", text=str(verdict)))
    return case


def _error(what: str, error: EdgeferryError) -> Element:
    case = _element("testcase", {"classname": what, "name": "measurement", "time": "0"})
    case.append(_told("error", str(error), type(error).__name__))
    return case


def _told(kind: str, message: str, of: str) -> Element:
    return _element(kind, {"message": message, "type": of}, message)


def _element(tag: str, attributes: Mapping[str, object] | None = None, text: str = "") -> Element:
    plain = {key: _plain(value) for key, value in (attributes or {}).items()}
    element = ElementTree.Element(tag, plain)
    element.text = _plain(text) or None
    return element


def _plain(value: object) -> str:
    """Return text without what XML cannot hold, control characters and lone surrogates among it."""
    return _NO_XML.sub("", str(value))
