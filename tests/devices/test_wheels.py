"""The wheels that are brought: our own, and what pip says when others cannot be had."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgeferry_devices import places, wheelhouse
from edgeferry_devices.platforms import Platform
from edgeferry_devices.wheel import build_runtime_wheel, runtime_version
from edgeferry_runtime import __version__
from edgeferry_runtime.errors import DeviceRequirementError

PI = Platform("/usr/bin/python3", (3, 11, 2), "linux", 64, "aarch64", "glibc 2.36", True)


def test_equal_sources_give_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, second = build_runtime_wheel(tmp_path), build_runtime_wheel(tmp_path / "again")
    assert first.read_bytes() == second.read_bytes()
    assert first.name == f"edgeferry-{runtime_version()}-py3-none-any.whl"
    assert runtime_version().startswith(f"{__version__}+")


def test_the_wheel_holds_the_runtime_alone(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_runtime_wheel(tmp_path)) as archive:
        names = archive.namelist()
        record = archive.read(next(n for n in names if n.endswith("RECORD"))).decode()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"edgeferry_runtime", "edgeferry"}
    assert {"edgeferry_runtime/agent.py", "edgeferry_runtime/py.typed"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    assert [line.split(",")[0] for line in record.splitlines()] == names


def test_pip_installs_it(tmp_path: Path) -> None:
    wheel = build_runtime_wheel(tmp_path)
    target = ["--no-index", "--no-deps", "--quiet", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *target, str(wheel)], check=True)
    ask = "import edgeferry_runtime.agent as a; print(a.__file__)"
    said = subprocess.check_output([sys.executable, "-c", ask], env={"PYTHONPATH": str(tmp_path / "site")}, text=True)
    assert said.startswith(str(tmp_path / "site"))


def test_requirements_follow_glibc() -> None:
    assert "ai-edge-litert>=2.1" in wheelhouse.requirements(PI, ["tflite"])
    older = Platform("/p", (3, 11, 2), "linux", 64, "aarch64", "glibc 2.31", True)
    assert "ai-edge-litert>=2.1,<2.1.6" in wheelhouse.requirements(older, ["tflite"])
    assert not [r for r in wheelhouse.requirements(PI, ["onnx"]) if "litert" in r]


def test_urls_are_hidden() -> None:
    text = "Looking in indexes: https://bob:s3cret@index.example/simple, git+ssh://t0ken@host/x\nok"
    assert wheelhouse.redact(text) == "Looking in indexes: (URL), (URL)\nok"


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A package index whose address holds a password, and where nothing answers."""
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = http://bob:s3cret@127.0.0.1:1/simple\nretries = 0\ntimeout = 1\n")
    for variable in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))


@pytest.mark.usefixtures("no_index")
def test_an_index_out_of_reach_is_said_without_its_password() -> None:
    with pytest.raises(DeviceRequirementError, match=r"pi: .*check this machine's access") as caught:
        wheelhouse._download("pi", PI, ["no-such-package-of-ours"], places.cache_dir() / "wheels" / "x")
    assert "s3cret" not in str(caught.value)
    assert "http" not in str(caught.value)
    assert list((places.cache_dir() / "wheels").iterdir()) == []


@pytest.mark.slow
def test_wheels_for_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a Raspberry Pi 5 gets, and that it comes from the cache the second time."""
    wheels = wheelhouse.collect("pi", PI, ["tflite", "onnx"])
    names = [wheel.path.name for wheel in wheels]
    assert any(n.startswith("numpy-") and "cp311" in n and "aarch64" in n for n in names)
    assert any(n.startswith("ai_edge_litert-") and "aarch64" in n for n in names)
    assert any(n.startswith("onnxruntime-") and "aarch64" in n for n in names)
    assert any(n.startswith("pip-") for n in names)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert [wheel.sha256 for wheel in wheelhouse.collect("pi", PI, ["tflite", "onnx"])] == [w.sha256 for w in wheels]
