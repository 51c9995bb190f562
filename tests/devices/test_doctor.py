"""What the doctor says of recorded boards, of what can be wrong with them, and of real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import facts, inventory
from edgeferry_devices.doctor import Diagnosis, examine
from edgeferry_devices.inside import NO_SERVICE
from edgeferry_devices.knowing import fact
from edgeferry_devices.knowing.folder_facts import parse_runtime

RECORDED = Path(__file__).parent / "recorded"
DAY_S = 86400
CORAL = {"id": "18d1:9302", "kind": "Edge TPU", "usable": True}


def recorded(board: str) -> facts.Facts:
    found = fact.sections((RECORDED / f"{board}.txt").read_text(encoding="utf-8"), "recorded")
    clock = int(found["clock"])
    return facts.assemble(board, "here", found, (clock, clock))


def said(diagnosis: Diagnosis, check: str) -> list[str]:
    return [f"{f.verdict}: {f.reason}" for f in diagnosis.findings if f.check == check]


def change(told: facts.Facts, part: str, **values: Any) -> facts.Facts:
    return replace(told, **{part: {**getattr(told, part), **values}})


def with_python(told: facts.Facts, **values: Any) -> facts.Facts:
    python = {**told.pythons[0], **values}
    machine = {**told.machine, "engines": python["engines"], "imports": python["imports"]}
    return replace(told, machine=machine, pythons=[python])


FAILING = {"termux_phone": ["engines", "engines"]}
WARNING = {
    "pi3_bookworm": ["instructions", "accelerators"],
    "pi4_bookworm": ["instructions", "power"],
    "pi4_armhf_on_64_bit_kernel": ["engines", "serve"],
    "pi5_trixie": ["accelerators"],
    "jetson_orin_nano": ["accelerators"],
    "termux_phone": [],
    "adb_phone": ["power"],
    "emulated_pi4": ["instructions"],
    "emulated_pi5": [],
}


@pytest.mark.parametrize("board", WARNING)
def test_recorded_board(board: str) -> None:
    diagnosis = examine(recorded(board))
    looked = [f for f in diagnosis.findings if f.check != "python"]
    by = {v: [f.check for f in looked if f.verdict == v] for v in ("failure", "warning")}
    assert by == {"failure": FAILING.get(board, []), "warning": WARNING[board]}
    assert all(bool(f.fix) == (f.verdict != "ok") for f in diagnosis.findings)


def test_who_can_serve_and_who_does() -> None:
    told = recorded("pi5_trixie")
    assert said(examine(told), "serve") == [
        "ok: the server is not installed; it can be: ferry device setup pi5_trixie --serve"
    ]
    assert said(examine(change(told, "folder", parts=["onnx", "serve"])), "serve") == ["ok: the server is installed"]
    within = change(told, "machine", inside="proot:debian")
    assert said(examine(within), "serve") == [f"warning: {NO_SERVICE[0]}"]
    assert "no wheels for 32-bit armv7l" in said(examine(recorded("pi4_armhf_on_64_bit_kernel")), "serve")[0]
    assert parse_runtime('{"runtime": "1", "formats": ["onnx", "serve"]}')["parts"] == ["onnx", "serve"]
    assert parse_runtime('{"runtime": "", "formats": ["onnx", "serve"]}') == {}, "that installation was not finished"


def test_what_is_said_of_a_pi_4() -> None:
    diagnosis = examine(recorded("pi4_bookworm"))
    assert (
        "lacks atomics, asimddp, fphp: LiteRT's accelerators would die of SIGILL" in said(diagnosis, "instructions")[0]
    )
    assert said(diagnosis, "power") == ["warning: under-voltage since boot: it is slowed and may reset itself"]
    assert said(diagnosis, "engines")[0] == "ok: TFLite: a wheel of LiteRT fits"


def test_a_phone_over_adb_needs_no_python() -> None:
    diagnosis = examine(replace(recorded("adb_phone"), address="adb:R58"))
    assert said(diagnosis, "python") == ["warning: Android has no Python: bundles cannot be pushed there, but measured"]
    assert not diagnosis.failures


def test_16_kib_pages_of_a_pi_5_are_fine_in_64_bits_only() -> None:
    told = recorded("pi5_trixie")
    assert said(examine(told), "page size")[0].startswith("ok: 16 KiB")
    assert said(examine(change(told, "machine", userland_bits=32)), "page size")[0].startswith("warning")
    assert said(examine(change(told, "machine", page_size=131072)), "page size")[0].startswith("failure")


def test_phone_is_sent_to_proot() -> None:
    diagnosis = examine(recorded("termux_phone"))
    assert all("Android's C library" in finding.reason for finding in diagnosis.failures)
    assert "proot-distro" in diagnosis.failures[0].fix


def test_32_bits_take_tflite_runtime_and_its_numpy() -> None:
    told = recorded("pi4_armhf_on_64_bit_kernel")
    diagnosis = examine(told)
    assert "tflite-runtime" in said(diagnosis, "engines")[0]
    assert "ONNX Runtime is not there for 32-bit armv7l" in said(diagnosis, "engines")[1]
    assert said(diagnosis, "numpy") == ["ok: NumPy 1.24.2, which tflite-runtime needs"]
    assert "needs NumPy 1" in said(examine(with_python(told, numpy="2.2.4")), "numpy")[0]
    assert "NumPy is missing" in said(examine(with_python(told, numpy=None)), "numpy")[0]
    trixie = examine(with_python(told, version=[3, 13, 5]))
    assert [f.check for f in trixie.failures] == ["engines", "engines"]
    assert "tflite-runtime needs Python 3.10 to 3.11" in trixie.failures[0].reason


def test_numpy_2_beside_an_installed_tflite_runtime() -> None:
    told = with_python(recorded("pi4_bookworm"), engines={"tflite_runtime": "2.14.0"}, numpy="2.1.0")
    assert said(examine(told), "numpy") == ["failure: NumPy 2.1.0 is installed, and tflite-runtime needs NumPy 1"]
    assert said(examine(with_python(told, numpy="1.26.4")), "numpy")[0].startswith("ok")


@pytest.mark.parametrize(
    ("values", "check", "reason"),
    [
        ({"version": [3, 9, 2]}, "python", "has Python 3.9.2, and 3.10 is the oldest that works"),
        ({"venv": False}, "python", "lacks the module venv"),
        ({"libc": ""}, "engines", "there are no wheels for a C library other than glibc"),
        ({"libc": "glibc 2.24"}, "engines", "LiteRT needs glibc 2.27, tflite-runtime is not there for 64-bit aarch64"),
        ({"version": [3, 15, 0]}, "engines", "LiteRT needs Python 3.10 to 3.14"),
        ({"machine": "riscv64"}, "engines", "LiteRT is not there for 64-bit riscv64"),
        (
            {"engines": {"onnxruntime": "1.31.1"}, "imports": {"onnxruntime": "signal 4"}},
            "imports",
            "onnxruntime dies of SIGILL",
        ),
        (
            {"engines": {"ai_edge_litert": "2.3"}, "imports": {"ai_edge_litert": "ImportError: GLIBC_2.34 not found"}},
            "imports",
            "ai-edge-litert cannot be imported: ImportError: GLIBC_2.34 not found",
        ),
    ],
)
def test_unfit_python(values: dict[str, Any], check: str, reason: str) -> None:
    diagnosis = examine(with_python(recorded("pi5_trixie"), **values))
    assert reason in next(f.reason for f in diagnosis.failures if f.check == check)


@pytest.mark.parametrize("board", ["pi3_bookworm", "pi5_trixie", "jetson_orin_nano"])
def test_python_of_64_bit_boards_will_do(board: str) -> None:
    assert said(examine(recorded(board)), "python")[0].startswith("ok: Python 3.")


def test_no_python() -> None:
    told = replace(recorded("pi5_trixie"), pythons=[])
    assert [f.check for f in examine(told).failures] == ["python"]


@pytest.mark.parametrize(
    ("part", "values", "check", "finding"),
    [
        ("folder", {"free_bytes": 90_000_000}, "space", "failure: 90 MB free in /, and the runtime and an engine may"),
        ("folder", {"free_bytes": 250_000_000}, "space", "warning: 250 MB free in /, which is not much"),
        ("folder", {"mount_options": ["ro", "noatime"]}, "folder", "failure: /home/pi/.local/share is read-only"),
        ("folder", {"writable": False}, "folder", "failure: /home/pi/.local/share may not be written by pi"),
        ("folder", {"folder": False}, "folder", "failure: /home/pi/.local/share is not a folder"),
        ("folder", {"mount_options": ["rw", "noexec"]}, "folder", "failure: /home/pi/.local/share is mounted noexec"),
        ("state", {"clock_skew_s": -20053.0 * DAY_S}, "clock", "failure: the clock is 55 years behind: certificates"),
        ("state", {"clock_skew_s": 3 * 3600.0}, "clock", "warning: the clock is 3 hours ahead: dates of releases"),
        ("state", {"clock_skew_s": 30.0}, "clock", "ok: agrees"),
        ("state", {"throttled": ["under-voltage"]}, "power", "warning: under-voltage now"),
        ("state", {"throttled": ["soft temperature limit"]}, "power", "warning: soft temperature limit"),
        ("state", {"temperature_c": 84.2}, "heat", "warning: 84 degrees"),
        ("state", {"governor": "powersave"}, "governor", "warning: powersave"),
        ("state", {"memory_available_bytes": 90_000_000}, "memory", "warning: 90 MB of memory are available"),
        (
            "accelerators",
            {"usb": [{"id": "18d1:9302", "kind": "Edge TPU", "usable": True}]},
            "accelerators",
            "warning:",
        ),
    ],
)
def test_what_can_hinder(part: str, values: dict[str, Any], check: str, finding: str) -> None:
    told = said(examine(change(recorded("pi5_trixie"), part, **values)), check)
    assert any(line.startswith(finding) for line in told), told


def test_less_space_will_do_where_all_is_installed() -> None:
    told = replace(change(recorded("pi5_trixie"), "folder", free_bytes=120_000_000), runtime="0.1.0+abc")
    assert said(examine(told), "space") == ["ok: 120 MB free in /"]


def test_sensors_that_are_missing_are_no_findings() -> None:
    told = replace(recorded("pi5_trixie"), state={}, folder={}, accelerators={})
    assert {f.check for f in examine(told).findings} == {"python", "engines", "serve", "instructions", "page size"}


Ferry = Callable[..., tuple[int, str, str]]


def test_ready(ferry: Ferry, place: Any) -> None:
    code, out, err = ferry("doctor", place.name)
    assert (code, err) == (0, ""), out
    assert out.startswith(f"{place.name} (")
    told = json.loads(ferry("doctor", place.name, "--json")[1])
    assert (told["schema"], told["device"], told["ready"]) == (1, place.name, True)
    assert set(told["findings"][0]) == {"check", "verdict", "reason", "fix"}


def test_unreachable(ferry: Ferry) -> None:
    inventory.add(inventory.Entry("gone", "127.0.0.1", port=1))
    assert ferry("doctor", "gone")[:2] == (4, "")


def test_engine_that_dies(ferry: Ferry, server: Any, tmp_path: Path) -> None:
    """A processor that lacks instructions kills the import, and nothing else."""
    venv.create(tmp_path / "root/venv", symlinks=True)
    packages = next((tmp_path / "root/venv").glob("lib/python3*/site-packages"))
    for name, text in {"onnxruntime": "import os; os.kill(os.getpid(), 4)", "tflite_runtime": "import nothing"}.items():
        (packages / name).mkdir()
        (packages / name / "__init__.py").write_text(text)
        info = packages / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    inventory.add(server.entry(tmp_path / "root"))
    code, out, _ = ferry("doctor", "pi", "--json")
    told = [f["reason"] for f in json.loads(out)["findings"] if f["check"] == "imports"]
    assert code == 3
    assert told == [
        "tflite-runtime cannot be imported: ModuleNotFoundError: No module named 'nothing'",
        "onnxruntime dies of SIGILL: this processor lacks instructions that it was built for",
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB, read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=2m,ro", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_read_only_and_full(ferry: Ferry, server: Any, small_disk: Path) -> None:
    inventory.add(server.entry(small_disk / "of ours"))
    code, out, err = ferry("doctor", "pi")
    assert code == 3
    assert f"{small_disk} is read-only" in " ".join(out.split())
    assert "2 MB free" in out
    assert err == "ferry: error: pi: folder, space will not do; do what is written above, then ask again\n"


def test_tools_of_a_raspberry_pi(ferry: Ferry, start_server: Callable[..., Any], tmp_path: Path) -> None:
    """A board whose clock began anew, whose supply is weak and whose pages are large, told by its commands."""
    (tmp_path / "bin").mkdir()
    tools = {
        "date": "echo 86400",
        "vcgencmd": 'case $1 in get_throttled) echo throttled=0x50005;; measure_temp) echo "temp=82.3\'C";; esac',
        "getconf": "case $1 in PAGE_SIZE) echo 131072;; LONG_BIT) echo 64;; *) exit 1;; esac",
    }
    for name, text in tools.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    server = start_server(f"{tmp_path / 'bin'}:{Path(sys.executable).resolve().parent}:/usr/bin:/bin")
    server.trust()
    inventory.add(server.entry(tmp_path / "bare"))
    code, out, err = ferry("doctor", "pi")
    told = " ".join(out.split())
    assert code == 3
    assert "page size, clock will not do" in err
    assert "years behind: certificates, dates of releases and archives would be wrong" in told
    assert "pages of 128 KiB, and the engines need 64 KiB or less" in told
    assert "under-voltage now" in told or "ok power" in told  # a machine whose own driver tells is believed first
    assert "degrees" in told


def test_board_without_python(ferry: Ferry, start_server: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("sh", "cat", "date"):
        (tmp_path / "bin" / name).symlink_to(f"/bin/{name}")
    server = start_server(str(tmp_path / "bin"))
    server.trust()
    inventory.add(server.entry(tmp_path / "bare"))
    code, out, _ = ferry("doctor", "pi", "--json")
    assert code == 3
    assert [f["check"] for f in json.loads(out)["findings"] if f["verdict"] == "failure"] == ["python"]
    code, out, _ = ferry("device", "info", "pi")
    assert code == 0
    assert "memory" in out
    assert not (tmp_path / "bare").exists()
