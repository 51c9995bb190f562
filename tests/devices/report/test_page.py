"""The page: whole by itself, the same for the same history, in order for every reader, and safe to open."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest

from edgeferry_devices import render_report
from edgeferry_devices.report.page import TEMPLATES
from edgeferry_runtime.errors import DataError

ROOT = Path(__file__).parents[3]
EVIL = "<script>document.title='ran'</script>\"'>\n<img src=http://127.0.0.1/x onerror=alert(1)>{{ 7 * 7 }}"
SECTIONS = ["summary", "changes", "distributions", "tradeoffs", "operators", "sensors", "conditions"]
MANY_DOUBTS = tuple(f"{kind}: it was seen {'again and ' * 9}again" for kind in ("busy", "preempted", "drifting"))
WARM = {"temperature_c": 61.5, "frequency_mhz": 1800.0, "governor": "ondemand", "throttled": [], "load1": 0.1}


def test_the_same_measurements_make_the_same_page(measure, found) -> None:
    for day, device in ((0, "pi"), (0, "jetson"), (1, "pi")):
        measure(device, day=day)
    page = render_report(found())
    assert render_report(list(reversed(found()))) == page


def test_each_section_is_there_and_says_why_it_has_nothing(measure, found, parse) -> None:
    measure(operators=(), operators_run={}, state_before={}, state_after={}, states_during=())
    page = parse(render_report(found()))
    assert [attributes["id"] for tag, attributes in page.elements if tag == "section"] == SECTIONS
    for reason in (
        "Nothing to compare with: each bundle, device and delegate was measured in one run only",
        "No accuracy to draw: none of these bundles carries one",
        "No times per operator: none of the newest runs took them",
        "No temperature or frequency could be read on pi",
    ):
        assert reason in page.text


def test_nothing_to_show_is_refused() -> None:
    with pytest.raises(DataError, match="report: has nothing to show; measure first"):
        render_report([])


def test_names_stay_text_in_every_place_where_they_stand(measure, found, parse) -> None:
    accuracy = {"metric": EVIL, "artifact": 1.0, "drop": 0.1}
    state = {**WARM, "governor": EVIL, "throttled": [EVIL]}
    for day in (0, 1):
        measure(
            *(EVIL, EVIL),
            day=day,
            run=f"{EVIL} {day}",
            factor=1.0 + day,
            artifact={"bundle": "abcd"[day] * 64, "accuracy": accuracy, "signature": EVIL, "precision": EVIL},
            engine={"name": EVIL, "version": f"{EVIL} {day}", "delegate": EVIL},
            machine={"board": EVIL, "os": f"{EVIL} {day}"},
            execution={"processor": EVIL},
            state_before=state,
            state_after={**state, "temperature_c": 70.0},
            warnings=(f"busy: {EVIL}",),
            operators=({**dict.fromkeys(("name", "type", "provider"), EVIL), **dict.fromkeys(NUMBERS, 1.0)},),
        )
    page = parse(render_report(found(), EVIL))
    assert not {"script", "img", "iframe", "link", "object", "base"} & set(page.tags)
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count("document.title='ran'") > 30
    assert "49" not in re.findall(r"onerror=alert\(1\)>(\d+)", page.text)


NUMBERS = ("mean_us", "median_us", "share", "calls")


def test_half_a_letter_is_no_defect(measure, found) -> None:
    measure("pi \ud83d")
    assert render_report(found()).encode().decode()


def test_the_style_is_the_one_that_the_policy_allows(measure, found) -> None:
    measure()
    page = render_report(found())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    style = re.search(r"<style>(.*)</style>", page, re.DOTALL)
    assert policy and style
    allowed = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy[1] == f"default-src 'none'; style-src 'sha256-{allowed}'; base-uri 'none'; form-action 'none'"
    assert not re.search(r'\sstyle="|@import|url\(|javascript:|<script', page)


def test_every_reader_finds_the_way(measure, found, parse) -> None:
    """Headings step down one at a time, ids are unique, each picture has a name or is said to be none."""
    accuracy = {"metric": "top1", "artifact": 90.0, "drop": 0.1}
    for day in (0, 1):
        measure(
            day=day, state_before=WARM, state_after={**WARM, "temperature_c": 70.0}, artifact={"accuracy": accuracy}
        )
    text = render_report(found())
    page = parse(text)
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [a[key] for _, a in page.elements for key in ("aria-labelledby", "aria-describedby") if key in a]
    assert named
    assert set(named) <= set(ids)
    assert ("html", {"lang": "en"}) in page.elements
    for picture in re.findall(r"<svg[^>]*>\s*(?:<title|)", text):
        assert 'aria-hidden="true"' in picture or picture.endswith("<title") or "preserveAspectRatio" in picture
    heads = [attributes for tag, attributes in page.elements if tag == "th"]
    assert all("scope" in attributes for attributes in heads)


@pytest.mark.parametrize("scheme", range(3), ids=["light", "dark", "paper"])
def test_all_letters_stand_out_from_what_they_stand_on(scheme: int) -> None:
    """By 4.5 to 1, as WCAG 2.2 asks in 1.4.3."""
    sets = re.findall(r":root\{([^}]*)\}", (TEMPLATES / "page.css").read_text(encoding="utf-8"))
    colours = {name: luminance(value) for name, value in re.findall(r"--(\w+):(#\w+)", sets[scheme])}
    assert len(sets) == 3
    for letters in ("ink", "dim", "data", "good", "bad", "s0", "s1", "s2", "s3", "s4"):
        for ground in ("paper", "card"):
            low, high = sorted((colours[letters], colours[ground]))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (letters, ground)


def luminance(colour: str) -> float:
    """Return the relative luminance of ``#rgb`` or ``#rrggbb``."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.slow
def test_a_fleet_of_fifty_fits_into_a_megabyte(measure, found) -> None:
    during = tuple({"at_s": float(i), **WARM, "temperature_c": 50 + i / 10} for i in range(200))
    for bundle in ("mobilenet-v2-int8", "face-detection-short-range-int8"):
        for i in range(50):
            facts = {"states_during": during, "state_before": WARM, "state_after": WARM, "warnings": MANY_DOUBTS}
            for day in (0, 1):
                measure(f"cupboard-board-{i:02d}", bundle, 1 + i / 50, day, **facts)
    rows = found()
    assert len(rows) == 100
    assert len(render_report(rows).encode()) < 1_000_000


def test_the_templates_are_part_of_the_package() -> None:
    names = {path.name for path in (files("edgeferry_devices.report") / "templates").iterdir()}
    assert {"page.html.j2", "page.css", *(f"{section}.html.j2" for section in SECTIONS)} <= names
    assert "</" not in (TEMPLATES / "page.css").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_templates_travel_in_the_wheel(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"edgeferry_devices/report/templates/{path.name}" for path in TEMPLATES.iterdir()} <= names


def test_without_jinja2_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from edgeferry_devices import render_report\n"
        "try:\n render_report([object()])\nexcept ImportError as error:\n print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = "ferry report: needs Jinja2, which is not installed; run: pip install 'edgeferry[report]'"
    assert done.stdout.strip() == expected
