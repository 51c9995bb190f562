"""The page for people, in a real browser, of a real server with real models."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import requests

from edgeferry_converter.conversion import convert
from edgeferry_runtime.model import load
from edgeferry_runtime.preprocess import Preprocess
from edgeferry_runtime.serving.rest.pages import FILES

MODEL = Path(__file__).parents[2] / "converter" / "models" / "digits.tflite"
DROP = """
const [url, kind, type] = arguments, data = new DataTransfer();
const bytes = Uint8Array.from(atob(url), (letter) => letter.charCodeAt(0));
data.items.add(new File([bytes], "dropped", { type }));
const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                              : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
document.querySelector("#drop").dispatchEvent(event);
"""
ANSWERED = "document.querySelector('#took:not([hidden])')"
REFUSED = "document.querySelector('#wrong:not([hidden])')"


@pytest.fixture
def page(browser: Any, people: Any) -> Any:
    """The page, once it shows the models; in the end, only its server was asked, and nothing was complained of."""
    browser.open("about:blank")
    browser.requests(), browser.console()
    browser.open(people.http + "/")
    browser.until("document.querySelectorAll('#rows tr').length")
    yield browser
    asked = browser.requests()
    assert asked and all(url.startswith(people.http) for url in asked), asked
    assert [line for line in browser.console() if "status of 400" not in line] == []


@pytest.fixture
def picture(tmp_path: Path, png: Callable[[int], bytes]) -> Path:
    file = tmp_path / "three.png"
    file.write_bytes(png(3))
    return file


def bars(page: Any) -> list[tuple[str, float]]:
    """The labels, and how much of its track each bar fills, percent."""
    script = """return [...document.querySelectorAll("#answer li")].map((line) => [
        line.querySelector(".label").innerText, parseFloat(line.querySelector(".bar").style.width)])"""
    return [(label, width) for label, width in page.run(script)]


def test_it_shows_the_models(page: Any, people: Any) -> None:
    rows = page.run("return [...document.querySelectorAll('#rows tr')].map((row) => row.innerText)")
    for name, row in zip(("blind", "digits"), rows, strict=True):
        release = people.service.repository.find(name)
        assert all(word in row for word in (name, "version 1", release.bundle.id[:12], "ready", "tflite", "8\u00d78"))
    assert page.text("#server").startswith("2 of 2 models ready")
    assert page.text("#unable") == "Not offered: blind, which does not say how a picture becomes its input."
    assert page.run("return [...document.querySelectorAll('#model option')].map((o) => o.innerText)") == [
        "digits, version 1"
    ]


def test_a_chosen_picture_is_named(page: Any, naming: Path, picture: Path) -> None:
    with load(naming) as model:
        expected = model.classify(picture)
    page.type("#file", str(picture))
    page.until(ANSWERED)
    assert page.text("#answer li:first-child .score") == f"{100 * expected[0].score:.1f} %"
    shown = bars(page)
    assert [label for label, _ in shown] == [one.label for one in expected]
    assert [width for _, width in shown] == pytest.approx([100 * one.score for one in expected], abs=0.01)
    track, bar = page.run("return ['track', 'bar'].map((c) => document.querySelector('#answer .' + c).offsetWidth)")
    assert bar == pytest.approx(track * expected[0].score, abs=2)
    assert page.run("return document.querySelector('#shown').naturalWidth") == 8
    assert page.text("#said").startswith(expected[0].label)


def test_latency_is_live(page: Any, picture: Path) -> None:
    before = page.run("return Number(document.querySelector('#rows tr:last-child td:last-child').innerText)")
    page.type("#file", str(picture))
    page.until("Number(document.querySelector('#rows tr:last-child td:last-child').innerText) > arguments[0]", before)
    assert page.run("return document.querySelector('[data-label=p50]:not(tr:first-child *)').innerText").endswith(" ms")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_dropped_or_pasted_picture_is_named(page: Any, png: Callable[[int], bytes], way: str) -> None:
    from base64 import b64encode

    page.run(DROP, b64encode(png(7)).decode(), way, "image/png")
    page.until(ANSWERED)
    assert len(bars(page)) == 5


def test_what_goes_wrong_is_said_and_forgotten_with_the_next_picture(page: Any, tmp_path: Path, picture: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("no picture")
    page.type("#file", str(words))
    page.until(REFUSED)
    assert page.text("#wrong").startswith("the picture: cannot be read as a picture (of no known kind)")
    assert page.text("#answer") == page.text("#said") == ""
    page.type("#file", str(picture))
    page.until(ANSWERED)
    assert page.text("#wrong") == ""


def test_what_is_not_one_picture_is_said(page: Any) -> None:
    page.run("document.dispatchEvent(new DragEvent('drop', { dataTransfer: new DataTransfer(), cancelable: true }))")
    assert page.text("#wrong") == "That was no file."


def test_it_works_by_keyboard_and_tells_those_who_do_not_see(page: Any) -> None:
    reached = []
    for _ in range(3):
        page.press("Tab")
        reached.append(page.run("return document.activeElement.id"))
    assert reached[:2] == ["model", "file"]
    assert page.run("return document.querySelector('#said').ariaLive") == "polite"
    assert page.run("return document.querySelector('#wrong').role") == "alert"
    page.run("document.querySelector('#file').focus()")
    assert page.run("return getComputedStyle(document.querySelector('#drop')).outlineStyle") == "solid"


def test_a_server_whose_models_name_nothing_says_why(browser: Any, serve: Callable[..., Any], bundles: Any) -> None:
    with serve(blind=bundles["float"]) as server:
        browser.open(server.http + "/")
        browser.until("document.querySelectorAll('#rows tr').length")
        why = "No model here names pictures: blind, which does not say how a picture becomes its input."
        assert (browser.text("#unable"), browser.text("#ask")) == (why, "")


def test_a_server_that_is_gone_is_said(browser: Any, serve: Callable[..., Any], naming: Path) -> None:
    with serve(digits=naming) as server:
        browser.open(server.http + "/")
        browser.until("document.querySelectorAll('#rows tr').length")
    browser.until("document.querySelector('#server').innerText === 'The server does not answer.'")


def test_a_name_is_only_text(
    browser: Any, serve: Callable[..., AbstractContextManager[Any]], tmp_path: Path, picture: Path
) -> None:
    """Labels come from a file that somebody else may have written."""
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"<img src=x onerror=document.title={i}>\n" for i in range(10)))
    how = Preprocess(resize=(8, 8), scale=1 / 255, layout="NCHW", color="gray")
    convert(MODEL, tmp_path / "hostile", labels=labels, preprocess=how)
    with serve(digits=tmp_path / "hostile") as server:
        browser.open(server.http + "/")
        browser.until("document.querySelectorAll('#rows tr').length")
        browser.type("#file", str(picture))
        browser.until(ANSWERED)
        assert all(label.startswith("<img src=x onerror=") for label, _ in bars(browser))
        assert browser.run("return document.title") == "Edgeferry"


def test_a_server_with_a_token_is_asked_with_it(browser: Any, secured: tuple[Any, str], picture: Path) -> None:
    server, token = secured
    browser.open(server.http + "/")
    browser.requests(), browser.console()
    browser.until("document.querySelector('#gate').open")
    assert browser.run("return document.activeElement.id") == "token"
    assert browser.text("#refused") == ""
    browser.type("#token", "wrong\n")
    browser.until("document.querySelector('#refused:not([hidden])') && document.querySelector('#gate').open")
    browser.type("#token", token + "\n")
    browser.until("document.querySelectorAll('#rows tr').length")
    browser.type("#file", str(picture))
    browser.until(ANSWERED)
    assert not browser.run("return document.querySelector('#gate').open")
    assert token not in " ".join(browser.requests())
    assert browser.run("return localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert [line for line in browser.console() if "status of 401" not in line] == []
    browser.open(server.http + "/")
    browser.until("document.querySelector('#gate').open")


@pytest.mark.parametrize("path", ["", *FILES])
def test_every_part_has_the_policy(people: Any, path: str) -> None:
    answer = requests.get(f"{people.http}/{path}", timeout=60)
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';") and "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_policy_stops_what_got_through(page: Any) -> None:
    """Were there a script or a style in the page after all, the browser refuses it and says so."""
    page.run("document.body.insertAdjacentHTML('beforeend', '<p style=color:red onclick=1>x</p>')")
    said = " ".join(page.console())
    assert "Content Security Policy" in said and "style" in said
