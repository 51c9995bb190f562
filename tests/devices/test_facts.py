"""What boards tell, read from recorded output, and asked of real ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_devices import facts
from edgeferry_devices.knowing import accelerator_facts, fact, folder_facts, machine_facts, python_facts, state_facts
from edgeferry_devices.knowing.accelerator_facts import ACCELERATORS
from edgeferry_devices.knowing.folder_facts import FOLDER
from edgeferry_devices.knowing.machine_facts import MACHINE
from edgeferry_devices.knowing.python_facts import PYTHONS
from edgeferry_devices.knowing.state_facts import STATE, clock_skew

RECORDED = Path(__file__).parent / "recorded"
ALL = (*FOLDER, *MACHINE, *STATE, *ACCELERATORS, *PYTHONS)
A53 = ["asimd", "cpuid", "crc32", "evtstrm", "fp"]
GIB = 2**30


def recorded(board: str) -> facts.Facts:
    found = fact.sections((RECORDED / f"{board}.txt").read_text(encoding="utf-8"), "recorded")
    return facts.assemble(board, "here", found, (1763800000.2, 1763800001.5))


BOARDS: dict[str, dict[str, Any]] = {
    "pi3_bookworm": {
        "board": "Raspberry Pi 3 Model B Rev 1.2",
        "soc": "BCM2837",
        "cpu": "Cortex-A53",
        "features": A53,
        "cores": 4,
        "arch": "aarch64",
        "userland_bits": 64,
        "page_size": 4096,
        "os": "Debian GNU/Linux 12 (bookworm)",
        "libc": "glibc 2.36",
        "python": "3.11.2",
        "memory_bytes": 930028 * 1024,
        "temperature_c": 47.774,
        "governor": "ondemand",
        "frequency_mhz": 600,
        "frequency_max_mhz": 1200,
        "throttled": [],
        "clock_skew_s": 0,
        "usb": [{"id": "1a6e:089a", "kind": "Edge TPU", "usable": False}],
    },
    "pi4_bookworm": {
        "board": "Raspberry Pi 4 Model B Rev 1.5",
        "soc": "BCM2711",
        "cpu": "Cortex-A72",
        "throttled": ["under-voltage since boot", "throttled since boot"],
        "vulkan_drivers": ["broadcom", "lvp"],
        "free_bytes": 51752272 * 1024,
        "mount": "/",
        "mount_options": ["rw", "noatime"],
    },
    "pi4_armhf_on_64_bit_kernel": {"arch": "aarch64", "userland_bits": 32, "numpy": "1.24.2", "soc": "BCM2711"},
    "pi5_trixie": {
        "board": "Raspberry Pi 5 Model B Rev 1.0",
        "soc": "BCM2712",
        "cpu": "Cortex-A76",
        "page_size": 16384,
        "os": "Debian GNU/Linux 13 (trixie)",
        "libc": "glibc 2.41",
        "python": "3.13.5",
    },
    "jetson_orin_nano": {
        "board": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "soc": "tegra234",
        "cpu": "Cortex-A78AE",
        "jetson_linux": "R36.4.3",
        "cores": 6,
        "temperature_c": 49.843,
        "governor": "schedutil",
        "python": "3.10.12",
        "nodes": [
            {"path": "/dev/dri/renderD128", "kind": "GPU", "group": "render", "usable": False},
            {"path": "/dev/nvmap", "kind": "NVIDIA GPU", "group": "video", "usable": True},
        ],
    },
    "termux_phone": {
        "board": "Google Pixel 7",
        "soc": "GS201",
        "os": "Android 14",
        "android_api": 34,
        "cpu": "Cortex-A55, Cortex-A78, Cortex-X1",
        "termux": "/data/data/com.termux/files/usr",
        "cores": 8,
        "page_size": 4096,
    },
    "adb_phone": {
        "board": "Google Pixel 7",
        "os": "Android 14",
        "user": "shell",
        "temperature_c": 44.25,
        "throttled": ["thermal status light"],
        "frequency_mhz": 1328,
        "battery_percent": 85,
        "battery_c": 28.9,
        "charging": True,
    },
    "emulated_pi4": {"cpu": "Cortex-A72", "cores": 2, "python": "3.11.2", "board": "Cortex-A72", "writable": True},
    "emulated_pi5": {"cpu": "Cortex-A76", "libc": "glibc 2.36", "engines": {}},
}
ABSENT = {
    "emulated_pi4": {"temperature_c", "throttled", "governor", "frequency_mhz", "soc", "nodes"},
    "termux_phone": {"temperature_c", "throttled", "libc", "load1"},
    "adb_phone": {"python", "termux", "libc"},
    "jetson_orin_nano": {"throttled"},
    "pi3_bookworm": {"jetson_linux", "termux", "android_api", "numpy"},
}


@pytest.mark.parametrize("board", BOARDS)
def test_recorded_board(board: str) -> None:
    told = recorded(board)
    flat = {**told.machine, **told.state, **told.folder, **told.accelerators}
    assert {key: flat.get(key) for key in BOARDS[board]} == BOARDS[board]
    assert not ABSENT.get(board, set()) & set(flat)


def test_features_are_those_of_every_core() -> None:
    text = (RECORDED / "termux_phone.txt").read_text(encoding="utf-8")
    small, big = (machine_facts.parse_cpuinfo(f"Features\t: fp asimd {more}")["features"] for more in ("", "uscat"))
    assert small == ["asimd", "fp"]
    assert "uscat" in big
    told = machine_facts.parse_cpuinfo(fact.sections(text, "recorded")["cpuinfo"])
    assert "uscat" not in told["features"]
    assert "asimddp" in told["features"]


@pytest.mark.parametrize(
    ("getconf", "ldd", "libc"),
    [
        ("glibc 2.36", "", "glibc 2.36"),
        ("", "ldd (Debian GLIBC 2.31-13+rpt2+rpi1+deb11u5) 2.31", "glibc 2.31"),
        ("", "ldd (GNU libc) 2.34", "glibc 2.34"),
        ("", "musl libc (aarch64)", "musl"),
        ("", "", None),
    ],
)
def test_libc(getconf: str, ldd: str, libc: str | None) -> None:
    assert machine_facts.parse_libc(getconf, ldd) == libc


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("throttled=0x50005", ["under-voltage", "throttled", "under-voltage since boot", "throttled since boot"]),
        ("throttled=0x0\ntemp=48.3'C", []),
        ("driver=1\nthrottled=0x0", ["under-voltage"]),
        ("VCHI initialization failed", None),
        ('error=1 error_msg="Command not registered"', None),
        ("", None),
    ],
)
def test_throttling(text: str, words: list[str] | None) -> None:
    assert state_facts.parse_firmware(text)["throttled"] == words


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Thermal Status: 0\n", {"temperature_c": None, "throttled": []}),
        ("Thermal Status: 3\n", {"temperature_c": None, "throttled": ["thermal status severe"]}),
        ("Thermal Status: 9\n", {"temperature_c": None, "throttled": None}),
        ("Can't find service: thermalservice", {"temperature_c": None, "throttled": None}),
        (
            "Cached temperatures:\n\tTemperature{mValue=90.0, mType=0, mName=CPU0, mStatus=0}\n"
            "Current temperatures from HAL:\n\tTemperature{mValue=NaN, mType=0, mName=CPU0, mStatus=0}\n"
            "\tTemperature{mValue=-3000.0, mType=0, mName=CPU1, mStatus=0}\n",
            {"temperature_c": None, "throttled": None},
        ),
    ],
)
def test_thermal_status_of_android(text: str, told: dict[str, Any]) -> None:
    assert state_facts.parse_thermal(text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("  level: 40\n  scale: 50\n", {"battery_percent": 80, "battery_c": None, "charging": None}),
        ("  AC powered: false\n  temperature: -15\n", {"battery_percent": None, "battery_c": -1.5, "charging": False}),
        ("  level: many\n  scale: 0\n", {"battery_percent": None, "battery_c": None, "charging": None}),
        ("dumpsys: not found", {"battery_percent": None, "battery_c": None, "charging": None}),
    ],
)
def test_battery_of_android(text: str, told: dict[str, Any]) -> None:
    assert state_facts.parse_battery(text) == told


def test_firmware_tells_the_temperature_where_no_zone_does() -> None:
    found = {"zones": "", "firmware": "throttled=0x0\ntemp=48.3'C"}
    assert fact.read(STATE, found)["temperature_c"] == 48.3


@pytest.mark.parametrize(
    ("text", "degrees"),
    [
        ("cpu-thermal 48312", 48.312),
        ("gpu-thermal 61000\ncpu-thermal 48312", 48.312),
        ("acpitz 27800\nx86_pkg_temp 55000", 55.0),
        ("soc_thermal -273000", None),
        ("cv0-thermal ", None),
        ("* ", None),
    ],
)
def test_zones(text: str, degrees: float | None) -> None:
    assert state_facts.parse_zones(text)["temperature_c"] == degrees


@pytest.mark.parametrize(("clock", "skew"), [(100, 0), (101, 0), (99, 0), (200, 98.5), (0, -99.0), (98, -1.0)])
def test_clock_skew(clock: int, skew: float) -> None:
    assert clock_skew(clock, 100.0, 101.5) == skew


def test_space_of_a_mount_with_blanks() -> None:
    text = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda1 2048 1024 1024 50% /media/my disk\n"
    assert folder_facts.parse_space(text) == {"total_bytes": 2 << 20, "free_bytes": 1 << 20, "mount": "/media/my disk"}
    assert folder_facts.parse_space("df: no such file") == {}


def test_first_library_of_a_name_counts() -> None:
    text = "/lib/libvulkan.so.1\n/usr/lib/libvulkan.so.1\n/usr/lib/libedgetpu.so.1\n"
    told = accelerator_facts.parse_libraries(text)
    assert told == {"libraries": {"libvulkan": "/lib/libvulkan.so.1", "libedgetpu": "/usr/lib/libedgetpu.so.1"}}


def test_old_python_comes_after_a_new_one() -> None:
    line = '{"edgeferry": {"python": "/p", "version": [3, %d, 1], "system": "linux", "bits": 64, "machine": "aarch64",'
    line += ' "libc": "", "venv": true, "page_size": 4096, "numpy": null, "engines": {}, "imports": {}}}\n'
    told = facts.assemble("pi", "", {"pythons": f"noise\n{line % 8}{line % 12}" + '{"edgeferry": [torn'}, (0, 0))
    assert [found["version"][1] for found in told.pythons] == [12, 8]
    assert told.machine["python"] == "3.12.1"


@given(st.text(max_size=300), st.sampled_from(sorted(RECORDED.glob("*.txt"))), st.data())
def test_no_text_makes_a_parser_fail(text: str, path: Path, data: st.DataObject) -> None:
    """Boards tell the strangest things; a value that cannot be read is absent."""
    found = fact.sections(path.read_text(encoding="utf-8"), "recorded")
    for one in ALL:
        said = found.get(one.name, "")
        cut = data.draw(st.integers(0, len(said)))
        assert isinstance(one.parse(said[:cut] + text + said[cut:]), dict)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,9}", fullmatch=True), st.text("ab\n@ ", max_size=20), max_size=5))
def test_sections_come_back(given_: dict[str, str]) -> None:
    said = "Welcome!\n" + "".join(f"\n@@mark {name}\n{text}" for name, text in given_.items())
    assert fact.sections(said, "mark") == given_


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox", "mksh"])
def test_script_runs_on_any_shell(shell: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    folder = tmp_path / "a b's"
    argv = [shell, *["sh"] * (shell == "busybox"), "-s", "--", "m", str(folder / "x"), "-B", sys.executable]
    given_ = fact.script(ALL, python_facts.probe())
    done = subprocess.run(argv, input=given_, capture_output=True, text=True, check=False)
    told = facts.assemble("pi", "", fact.sections(done.stdout, "m"), (0, 0))
    assert (done.returncode, done.stderr) == (0, "")
    assert (told.root, told.folder["near"], told.folder["writable"]) == (str(folder / "x"), str(tmp_path), True)
    assert told.machine["python"] == ".".join(map(str, sys.version_info[:3]))
    assert not folder.exists()


def test_machine_without_any_tool(tmp_path: Path) -> None:
    argv = ["/bin/sh", "-s", "--", "m", str(tmp_path), "-B", "python3"]
    bare = {"env": {"PATH": "/nonexistent"}, "capture_output": True, "text": True}
    done = subprocess.run(argv, input=fact.script(ALL, "it's"), check=False, **bare)
    told = facts.assemble("pi", "", fact.sections(done.stdout, "m"), (0, 0))
    assert (done.returncode, done.stderr) == (0, "")
    assert told.root == str(tmp_path)
    assert told.pythons == []
    assert "clock_skew_s" not in told.state


@pytest.mark.parametrize(("root", "near"), [("~/x/y", "home"), ("x", "home"), ("/nowhere/x", "/")])
def test_folder_that_is_not_there_yet(root: str, near: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        ["/bin/sh", "-s", "--", "m", root, "-I"],
        input=fact.script(FOLDER),
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
        cwd=home,
        timeout=20,
        check=False,
    )
    told = fact.read(FOLDER, fact.sections(done.stdout, "m"))
    assert told["near"] == str(tmp_path / near)


def test_live(place: Any) -> None:
    told = facts.gather(place.device)
    assert told.root == str(place.root)
    assert told.machine["memory_bytes"] > GIB / 4
    assert told.state["clock_skew_s"] == 0
    assert told.folder["free_bytes"] > 0
    assert told.machine["imports"]["onnxruntime"] == ""


def test_probe_is_read_by_old_pythons() -> None:
    import ast

    ast.parse(python_facts.probe(), feature_version=(3, 6))


@pytest.mark.parametrize("board", BOARDS)
def test_text(board: str) -> None:
    from edgeferry_devices.commands.facts_text import facts_text

    lines = facts_text(recorded(board)).splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.split() == ["board", *recorded(board).machine["board"].split()] for line in lines)


def test_text_of_accelerators_and_engines() -> None:
    from edgeferry_devices.commands.facts_text import facts_text

    told = recorded("jetson_orin_nano")
    engines = {"engines": {"onnxruntime": "1.31.1"}, "imports": {"onnxruntime": "signal 4"}}
    text = facts_text(replace(told, machine={**told.machine, **engines}))
    assert "GPU /dev/dri/renderD128 (no permission), NVIDIA GPU /dev/nvmap" in text
    assert "onnxruntime 1.31.1 (cannot be imported: signal 4)" in text
