"""Our own wheel, which is brought to every device."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from edgeferry_devices.wheel import build_runtime_wheel, runtime_version
from edgeferry_runtime import __version__


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
    assert "edgeferry_runtime/serving/rpc/protos/messages.binpb" in names
    assert "edgeferry_runtime/serving/rest/page/index.html" in names
    assert not [name for name in names if "__pycache__" in name]
    assert [line.split(",")[0] for line in record.splitlines()] == names


def test_pip_installs_it(tmp_path: Path) -> None:
    wheel = build_runtime_wheel(tmp_path)
    target = ["--no-index", "--no-deps", "--quiet", "--target", str(tmp_path / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *target, str(wheel)], check=True)
    ask = "import edgeferry_runtime.agent as a; print(a.__file__)"
    said = subprocess.check_output([sys.executable, "-c", ask], env={"PYTHONPATH": str(tmp_path / "site")}, text=True)
    assert said.startswith(str(tmp_path / "site"))
