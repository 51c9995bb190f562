"""The page in a real browser, opened from its file: no script, no complaint, no request."""

from __future__ import annotations

from pathlib import Path

from edgeferry_devices import render_report

EVIL = "<script>document.title='ran'</script>\"'><img src=http://127.0.0.1:9/x onerror=\"document.title='ran'\">\n"


def test_the_browser_tells_of_scripts_requests_and_complaints(tmp_path: Path, visit) -> None:
    """What the other tests do not find, they could find."""
    page = tmp_path / "control.html"
    body = "<img src=http://127.0.0.1:9/x><script>document.title='ran';console.error('boom')</script>"
    page.write_text(f"<!doctype html><title>control</title>{body}")
    seen = visit(page)
    assert "<title>ran</title>" in seen.dom
    assert seen.requests == ("http://127.0.0.1:9/x",) * len(seen.requests) != ()
    assert any("boom" in line for line in seen.console)


def test_a_hostile_history_is_only_text(tmp_path: Path, measure, found, visit, parse) -> None:
    for day in (0, 1):
        measure(EVIL, EVIL, day=day, warnings=(f"busy: {EVIL}",), machine={"board": EVIL})
    page = tmp_path / "report.html"
    page.write_text(render_report(found(), "</title>" + EVIL), encoding="utf-8")
    seen = visit(page)
    assert seen.console == ()
    assert seen.requests == ()
    dom = parse(seen.dom)
    assert not {"script", "img"} & set(dom.tags)
    assert "<title>ran</title>" not in seen.dom
    assert dom.text.count("document.title='ran'") > 10


def test_the_policy_would_stop_what_got_through(tmp_path: Path, measure, found, visit) -> None:
    """Were a name not escaped, or the style another one, the page's own policy refuses it and the browser says so."""
    measure()
    page = tmp_path / "report.html"
    text = render_report(found(), "TITLE")
    page.write_text(
        text.replace("<h1>TITLE", f"<h1>{EVIL}").replace("<style>", "<style>i{color:red}"), encoding="utf-8"
    )
    seen = visit(page)
    assert "<title>ran</title>" not in seen.dom
    assert seen.requests == ()
    for refused in ("script", "style", "image"):
        assert any(refused in line and "Content Security Policy" in line for line in seen.console), seen.console
