"""containers/: what becomes an image runs here without one, and every file is what its published schema says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgeferry_runtime.commands.serve import serve as serve_command
from edgeferry_runtime.serving.rest.guard import FREE
from edgeferry_runtime.serving.settings import Address

ROOT = Path(__file__).parents[2]
CONTAINERS = ROOT / "containers"
CHECK = Path(__file__).parent / "manifests" / "check.py"

Check = Callable[[Path], dict[str, list[str]]]


def dockerfile(instruction: str) -> list[str]:
    """Return what follows an instruction, line by line, in the order of the file."""
    text = (CONTAINERS / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in text.splitlines() if line.split(maxsplit=1)[:1] == [instruction]]


@pytest.fixture(scope="module")
def check(pytestconfig: pytest.Config, missing: Callable[[str], None]) -> Check:
    """Hold a folder like containers/ to the schemas: what is wrong, by file."""
    python = pytestconfig.rootpath / "build" / "manifests" / "bin" / "python"
    if not (python.parents[1] / ".ready").exists():
        missing("the schemas are not installed: run `make manifests`")

    def run(folder: Path) -> dict[str, list[str]]:
        done = subprocess.run([python, CHECK, folder], check=True, capture_output=True, text=True, timeout=120)
        found: dict[str, list[str]] = json.loads(done.stdout)
        return found

    return run


def test_every_file_is_what_its_schema_says(check: Check) -> None:
    found = check(CONTAINERS)
    assert not any(found.values()), found
    assert set(found) == {
        "Dockerfile",
        "compose.yaml",
        "kubernetes/deployment.yaml",
        "kubernetes/service.yaml",
        "kubernetes/token.example.yaml",
        "kserve/serving-runtime.yaml",
        "kserve/inference-service.yaml",
    }


MISTAKES = {
    "Dockerfile": ("WORKDIR /src", "RUN cd /src"),
    "compose.yaml": ("    read_only: true", "    readonly: true"),
    "kubernetes/deployment.yaml": ("periodSeconds: 2", "periodSecond: 2"),
    "kubernetes/service.yaml": ("port: 8000", "port: http"),
    "kubernetes/token.example.yaml": ("stringData:", "stringDatum:"),
    "kserve/serving-runtime.yaml": ("containerPort: 8080", 'containerPort: "8080"'),
    "kserve/inference-service.yaml": ("storageUri", "storageUrl"),
}


def test_a_mistake_in_each_is_found(check: Check, tmp_path: Path) -> None:
    folder = tmp_path / "containers"
    shutil.copytree(CONTAINERS, folder)
    for file, (before, after) in MISTAKES.items():
        text = (folder / file).read_text()
        assert before in text
        (folder / file).write_text(text.replace(before, after, 1))
    assert [file for file, problems in check(folder).items() if not problems] == []


def test_every_option_is_one_of_the_command() -> None:
    known = set(re.findall(r"--[a-z-]+", CliRunner().invoke(serve_command, ["--help"]).output))
    lines = [*dockerfile("ENTRYPOINT"), *dockerfile("CMD")]
    lines += re.findall(r"^ *(?:command|args): (.*)$", (CONTAINERS / "compose.yaml").read_text(), re.M)
    for path in CONTAINERS.glob("k*/*.yaml"):
        lines += re.findall(r"^ *(?:args: .*|- .*--.*)$", path.read_text(), re.M)
    given = set(re.findall(r"--[a-z-]+", " ".join(lines)))
    assert {"--repository", "--host", "--token-file", "--grpc-port"} <= given <= known


def test_ports_and_paths_are_those_of_the_server() -> None:
    address = Address()
    assert dockerfile("EXPOSE") == [f"{address.port} {address.grpc_port}"]
    everything = "".join(path.read_text() for path in CONTAINERS.rglob("*") if path.is_file())
    probed = set(re.findall(r"/v2/health/\w+", everything))
    assert probed == {"/v2/health/live", "/v2/health/ready"}
    assert probed <= FREE


def test_what_the_image_is_built_of_is_let_in() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {source for source, _ in copied()} == let_in


def test_nobody_is_root_and_the_end_is_heard() -> None:
    assert dockerfile("USER") == ["10001:10001"]
    assert dockerfile("STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(dockerfile("ENTRYPOINT")[0])[:2] == ["ferry", "serve"]


@pytest.mark.slow
def test_what_the_image_holds_serves_alone(bundles: dict[str, Path], pictures: Any, tmp_path: Path) -> None:
    source, prefix, repository = tmp_path / "src", tmp_path / "image", tmp_path / "bundles"
    for name, target in copied():
        place = source / target
        place.parent.mkdir(parents=True, exist_ok=True)
        whole = ROOT / name
        shutil.copytree(whole, place, ignore=shutil.ignore_patterns("__pycache__")) if whole.is_dir() else shutil.copy(
            whole, place
        )
    bare = {key: value for key, value in os.environ.items() if key.startswith("PIP_") or "proxy" in key.lower()}
    bare |= {"PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"], "LANG": "C.UTF-8"}
    build = {**bare, "ENGINES": "litert", "PYTHON": os.path.realpath(sys.executable)}
    subprocess.run([source / "containers" / "build.sh", source, prefix], check=True, env=build, timeout=900)
    shutil.rmtree(source)
    shutil.copytree(bundles["int8"], repository / "digits")

    installed = {path.name for path in prefix.glob("lib/python3*/site-packages/*")}
    assert {"edgeferry_runtime", "starlette", "grpc", "ai_edge_litert"} <= installed
    assert not installed & {"edgeferry_converter", "edgeferry_devices", "paramiko", "pip", "onnxruntime", "keras"}

    line = [*json.loads(dockerfile("ENTRYPOINT")[0]), *json.loads(dockerfile("CMD")[0]), "--json"]
    line = [str(repository) if part == "/bundles" else part for part in line]
    line = ["127.0.0.1" if part == "0.0.0.0" else part for part in line]
    line[0] = str(prefix / "bin" / "ferry")
    home = {"PATH": str(prefix / "bin"), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([*line, "--port", "0", "--grpc-port", "0"], env=home, stdout=-1, cwd=repository) as server:
        try:
            assert server.stdout
            port = json.loads(server.stdout.readline())["port"]
            assert infer(port, pictures[:1]) == (1, 10)
            health = json.loads(dockerfile("HEALTHCHECK")[0].partition("CMD ")[2])
            health[0], health[2] = str(prefix / "bin" / "python"), health[2].replace(":8000/", f":{port}/")
            subprocess.run(health, check=True, env=home, timeout=60)
        finally:
            server.terminate()
    assert server.returncode == 0


def copied() -> list[tuple[str, str]]:
    """Return what the Dockerfile copies from the repository, and where to below its working folder."""
    found = []
    for words in map(str.split, dockerfile("COPY")):
        if not words[0].startswith("--"):
            *sources, target = words
            found += [(name, name if target == "./" else target) for name in sources]
    return found


def infer(port: int, picture: Any) -> tuple[int, ...]:
    """Ask the model for one picture, and return the shape of its scores."""
    tensor = {"name": "image", "shape": list(picture.shape), "datatype": "FP32", "data": picture.ravel().tolist()}
    url = f"http://127.0.0.1:{port}/v2/models/digits/infer"
    request = urllib.request.Request(url, json.dumps({"inputs": [tensor]}).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        digit = json.loads(answer.read())["outputs"][0]
    assert np.isfinite(digit["data"]).all()
    return tuple(digit["shape"])
