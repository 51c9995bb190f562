"""A real browser, driven as the W3C's WebDriver says."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
KEYS = {"Tab": 9}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key of an element's id: WebDriver, section 12.1."""


class Browser:
    """One window of a headless Chromium.

    Args:
        driver: The address of a chromedriver.
        program: The browser.
        folder: Where it keeps its profile.
    """

    def __init__(self, driver: str, program: str, folder: Path) -> None:
        options = {"binary": program, "args": [*FLAGS, f"--user-data-dir={folder}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        self._at = f"{driver}/session"
        self._at += "/" + self._post("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(self._at + path, json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        self._post("/url", {"url": url})

    def run(self, script: str, *args: Any) -> Any:
        """Run the body of a function in the page."""
        return self._post("/execute/sync", {"script": script, "args": args})

    def text(self, selector: str) -> str:
        """The text of an element as people see it; empty where it is not shown."""
        script = (
            "const found = document.querySelector(arguments[0]); return found?.checkVisibility() ? found.innerText : ''"
        )
        return str(self.run(script, selector))

    def type(self, selector: str, text: str) -> None:
        """Press keys on an element; a path is what a file input is given."""
        found = self._post("/element", {"using": "css selector", "value": selector})[ELEMENT]
        self._post(f"/element/{found}/value", {"text": text})

    def press(self, key: str) -> None:
        """Press and let go of a key, wherever the focus is."""
        for kind in ("rawKeyDown", "keyUp"):
            self.devtools("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def until(self, script: str, *args: Any) -> Any:
        """Wait until an expression is true in the page, and return its value."""
        deadline = time.monotonic() + 30
        while not (found := self.run(f"return {script}", *args)):
            assert time.monotonic() < deadline, f"never true: {script}; the page says: {self.text('body')}"
            time.sleep(0.02)
        return found

    def devtools(self, command: str, **params: Any) -> Any:
        return self._post("/goog/cdp/execute", {"cmd": command, "params": params})

    def console(self) -> list[str]:
        """What it complained of since this was last asked: errors of scripts, of the network, and of the policy."""
        return [line["message"] for line in self._post("/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """The addresses that pages asked for since this was last asked, pictures of their own memory aside."""
        events = [json.loads(line["message"])["message"] for line in self._post("/se/log", {"type": "performance"})]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("blob:")]

    def close(self) -> None:
        urllib.request.urlopen(urllib.request.Request(self._at, method="DELETE"), timeout=60).close()


@contextlib.contextmanager
def driving(driver: str, program: str, folder: Path) -> Iterator[Browser]:
    """Start a chromedriver and a browser."""
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with process:
        try:
            assert process.stdout is not None
            port = next(found[1] for line in process.stdout if (found := re.search(r"on port (\d+)\.", line)))
            browser = Browser(f"http://127.0.0.1:{port}", program, folder)
            try:
                yield browser
            finally:
                browser.close()
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], None]) -> Iterator[Browser]:
    """A browser, which all tests share: each opens its own page in it."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), "")
    driver = shutil.which("chromedriver") or ""
    if not (program and driver):
        missing("no Chromium that can be driven (packages chromium and chromium-driver)")
    with driving(driver, program, tmp_path_factory.mktemp("browser")) as found:
        yield found
