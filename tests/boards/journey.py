"""The whole way of a board: bare, without a network, to a report of what it measured, and bare again."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from board import Board

from edgeferry_runtime.bundle import Bundle

QUICKLY = ("--num-runs", "5", "--min-secs", "0", "--warmup-runs", "1", "--max-warmup-secs", "0")
"""How to measure where a run is a sign of life and no figure."""
LISTING = """
find / /run /dev/shm -xdev ! -type d -printf '%p %m %s %T@ %l\\n' -o -printf '%p %m\\n' 2>/dev/null | sort
find /usr/lib/python3* /usr/local/lib -name '*-packages' -exec find {} -type f -exec sha256sum {} + ';' | sort
"""
"""Every file with its mode, size, time and target, every folder, and the content of the system's own packages."""


@dataclass(frozen=True)
class Traveller:
    """What goes the way.

    Attributes:
        board: The board.
        name: What it is called in the inventory.
        ferry: Types a command line.
        engine: The engine that it will have.
        can_serve: Whether there are wheels of the server for it.
    """

    board: Board
    name: str
    ferry: Callable[..., str]
    engine: str
    can_serve: bool = True

    def set_up_offline(self) -> None:
        """Install from the cache alone, which is first filled by the command that the refusal names."""
        server = ("--serve",) if self.can_serve else ()
        typed = ("device", "setup", self.name, "--format", "tflite", *server, "--offline")
        said = self.ferry(*typed, exit_code=None)
        if "on a machine with a network: " in said:
            _, _, line = said.partition("on a machine with a network: ")
            fetch_wheels(line.partition(" - and copy")[0])
            said = self.ferry(*typed)
        assert self.engine in said

    def proves(self, bundle: Bundle) -> None:
        """Deploy a bundle, which is proven on the board."""
        said = self.ferry("deploy", bundle.path, self.name)
        assert "pushed" in said
        assert self.engine in said

    def measures(self, bundle: Bundle) -> None:
        """Profile a bundle, which is pushed first where it is not the current release."""
        told = json.loads(self.ferry("profile", bundle.path, "--on", self.name, "--json", *QUICKLY))
        (profile,) = told["profiles"]
        assert profile["error"] is None
        assert profile["profile"]["engine"]["name"] == self.engine

    def refuses(self, bundle: Bundle) -> None:
        """Deploy a bundle whose proof fails there."""
        said = self.ferry("deploy", bundle.path, self.name, exit_code=3)
        assert "the probe's outputs differ from the source's" in said
        assert "stays the current one" in said

    def answers(self, bundle: Bundle, folder: Path) -> None:
        """Run the current release: nothing is sent, and it computes what it should."""
        x = np.float32([[1, 2, 3, 4]])
        np.save(folder / "x.npy", x)
        given = ("--input", folder / "x.npy", "--output", folder / "y.npz")
        said = self.ferry("run", bundle.path, "--device", self.name, *given)
        assert "sending" not in said
        with np.load(folder / "y.npz") as arrays:
            np.testing.assert_array_equal(arrays["y"], 2 * x)

    def serves(self, first: Bundle, second: Bundle) -> None:
        """Have a release served, swap it for another one without a restart, and start the server again."""
        options = "--host 0.0.0.0 --no-grpc --no-management"
        said = self.ferry("deploy", first.path, self.name, "--service", "--serve-with", options)
        assert "ready at http://0.0.0.0:8000, in the background" in said
        token = self.ferry("service", "token", self.name).strip()
        assert self._ask(token) == "1"
        before = json.loads(self.ferry("service", "status", self.name, "--json"))
        self.ferry("deploy", second.path, self.name, "--service")
        assert self._ask(token) == "2"
        assert json.loads(self.ferry("service", "status", self.name, "--json"))["pid"] == before["pid"]
        assert "ready at" in self.ferry("service", "restart", self.name)

    def refuses_to_serve(self, bundle: Bundle) -> None:
        """Say why it cannot be a server; what is on it stays as it is."""
        said = self.ferry("deploy", bundle.path, self.name, "--service", exit_code=4)
        assert "cannot serve: grpcio, uvloop and httptools have no wheels for 32-bit" in said

    def _ask(self, token: str) -> str:
        """Have the served model double a few numbers, and return the version that did."""
        x = [1.0, 2.0, 3.0, 4.0]
        asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": x}]}
        url, head = f"http://{self.board.address}:8000/v2/models/tiny/infer", {"Authorization": f"Bearer {token}"}
        with urllib.request.urlopen(
            urllib.request.Request(url, json.dumps(asked).encode(), head), timeout=60
        ) as answer:
            told = json.load(answer)
        assert told["outputs"][0]["data"] == [2 * value for value in x]
        return str(told["model_version"])

    def releases(self) -> dict[str, str]:
        """Return what each release on the board is, by the beginning of its id."""
        told = json.loads(self.ferry("releases", self.name, "--json"))
        return {release["id"]: release["state"] for release in told["releases"]}

    def current(self) -> str:
        """Return the id of the current release."""
        (found,) = [release for release, state in self.releases().items() if state == "current"]
        return found


def fetch_wheels(line: str) -> None:
    """Type pip's command line in the folder of the wheels, with a Python that has pip."""
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "edgeferry" / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    _python, *arguments = shlex.split(line)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:  # for two boards at once, each wheel whole
        subprocess.run([sys.executable, *arguments], cwd=beside, check=True, stdout=subprocess.DEVNULL)
        for wheel in Path(beside).glob("*/*"):
            place = folder / wheel.parent.name
            place.mkdir(exist_ok=True)
            wheel.replace(place / wheel.name)


def go(traveller: Traveller, make_bundle: Callable[..., Bundle], folder: Path) -> None:
    """Go the whole way."""
    board, name, ferry = traveller.board, traveller.name, traveller.ferry
    before = board.run(LISTING)
    assert len(before.splitlines()) > 3000
    assert "TFLite: a wheel of" in ferry("doctor", name)
    traveller.set_up_offline()
    first, second, bad = make_bundle(), make_bundle(padding=1), make_bundle(wrong=1.0)
    traveller.proves(first)
    traveller.measures(first)
    traveller.measures(second)
    traveller.refuses(bad)
    traveller.answers(second, folder)
    assert traveller.releases() == {first.id: "previous", second.id: "current", bad.id: "failed"}
    ferry("rollback", "tiny", name)
    traveller.answers(first, folder)
    traveller.serves(first, second) if traveller.can_serve else traveller.refuses_to_serve(second)
    report = folder / "report.html"
    ferry("report", "-o", report)
    text = report.read_text()
    assert all(words in text for words in (name, second.id[:12], "against the run before it"))
    ferry("device", "remove", name, "--purge")
    assert board.run(LISTING).splitlines() == before.splitlines()
