"""Facts of a phone over adb, told by Android's shell and tools, and the commands that show them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import facts, inventory
from edgeferry_devices.adb import AdbDevice
from edgeferry_devices.inventory import Entry
from edgeferry_devices.knowing import fact
from edgeferry_runtime.cli import main

RECORDED = Path(__file__).parents[1] / "recorded" / "adb_phone.txt"


def ferry(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


@pytest.fixture
def android(start_phone: Callable[..., Any], tools: Path, tmp_path: Path) -> Any:
    """A phone that has Android's own programs too: each prints what was recorded."""
    found = fact.sections(RECORDED.read_text(encoding="utf-8"), "recorded")
    folder = tmp_path / "bin"
    shutil.copytree(tools, folder, symlinks=True)
    for name, text in {
        "getprop": found["getprop"],
        "thermalservice": found["thermal"],
        "battery": found["battery"],
    }.items():
        (tmp_path / name).write_text(text)
    for name, what in {"getprop": "getprop", "dumpsys": '"$1"'}.items():
        (folder / name).write_text(f"#!{folder}/sh\nexec cat {tmp_path}/{what}\n")
        (folder / name).chmod(0o755)
    return start_phone(path=str(folder))


def test_everything_is_told_by_androids_own_shell_and_tools(android: Any, tmp_path: Path) -> None:
    told = facts.gather(AdbDevice(Entry("phone", f"adb:{android.serial}", root=str(tmp_path / "x"))))
    assert (told.address, told.root, told.runtime) == (f"adb:{android.serial}", str(tmp_path / "x"), "")
    assert (told.machine["board"], told.machine["os"], told.machine["soc"]) == ("Google Pixel 7", "Android 14", "GS201")
    assert (told.state["temperature_c"], told.state["battery_percent"]) == (44.25, 85)
    assert told.state["throttled"] == ["thermal status light"]
    assert told.state["clock_skew_s"] == 0
    assert told.machine["memory_bytes"] > 1 << 28
    assert told.machine["cores"] > 0
    assert told.folder["near"] == str(tmp_path)
    assert told.folder["writable"]
    assert told.folder["free_bytes"] > 0
    assert "rw" in told.folder["mount_options"]
    assert told.folder["user"]
    assert told.pythons == []


def test_commands_show_a_phone(android: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ferry("device", "add", "shelf", f"adb:{android.serial}", "--root", str(tmp_path / "x")) == 0
    assert "next: ferry device info shelf" in capsys.readouterr().err
    assert ferry("device", "info", "shelf", "--json") == 0
    assert json.loads(capsys.readouterr().out)["machine"]["os"] == "Android 14"
    assert ferry("doctor", "shelf") == 0
    assert "ferry profile --benchmark-binary" in capsys.readouterr().out
    assert ferry("device", "list") == 0
    assert f"adb:{android.serial}" in capsys.readouterr().out
    assert ferry("device", "remove", "shelf") == 0
    assert f"its folder {tmp_path / 'x'} is still there" in capsys.readouterr().out


def test_there_is_no_host_key_to_trust(capsys: pytest.CaptureFixture[str]) -> None:
    inventory.add(Entry("shelf", "adb:R58"))
    assert ferry("device", "trust", "shelf") == 2
    assert "has no host key" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["adb:", "adb:-s", "adb:a b", "adb:$(id)"])
def test_no_serial_is_refused(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ferry("device", "add", "shelf", address) == 2
    assert "is no serial of adb" in capsys.readouterr().err
