"""Facts about the machine: parsers on recorded text, and readers on recorded folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeferry_runtime import machine

PI_CPUINFO = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU part\t: 0xd08

Hardware\t: BCM2835
Revision\t: c03114
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""
PC_CPUINFO = "processor\t: 0\nmodel name\t: AMD Ryzen 7 5800X\nprocessor\t: 1\nmodel name\t: AMD Ryzen 7 5800X\n"
OS_RELEASE = 'NAME="Debian GNU/Linux"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n'


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "model"),
    [(PI_CPUINFO, "Raspberry Pi 4 Model B Rev 1.4"), (PC_CPUINFO, "AMD Ryzen 7 5800X"), ("", None), ("junk", None)],
)
def test_cpu_model(text: str, model: str | None) -> None:
    assert machine.parse_cpu_model(text) == model


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("throttled=0x0\n", []),
        ("throttled=0x50005\n", ["under-voltage", "throttled", "under-voltage since boot", "throttled since boot"]),
        ("throttled=0x80008\n", ["soft temperature limit", "soft temperature limit since boot"]),
        ("", None),
        ("VCHI initialization failed", None),
        ("error=1 error_msg=Command not registered", None),
    ],
)
def test_throttled(text: str, words: list[str] | None) -> None:
    assert machine.parse_throttled(text) == words


def test_memory_lines() -> None:
    assert machine.parse_kilobytes("MemTotal:         947744 kB\nMemFree: 1 kB\n", "MemTotal") == 947744 * 1024
    assert machine.parse_kilobytes("VmHWM:\t   45000 kB", "VmRSS") is None
    assert machine.parse_kilobytes("VmRSS:", "VmRSS") is None


def test_os_name_and_load() -> None:
    assert machine.parse_os_name(OS_RELEASE) == "Debian GNU/Linux 12 (bookworm)"
    assert machine.parse_os_name("ID=x") is None
    assert machine.parse_load("0.42 0.40 0.38 1/123 4567\n") == 0.42
    assert machine.parse_load("") is None


def test_a_board_with_sensors(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/cpuinfo": PC_CPUINFO,
            "proc/meminfo": "MemTotal: 4194304 kB\n",
            "proc/loadavg": "1.50 1.0 0.5 1/100 200\n",
            "etc/os-release": OS_RELEASE,
            "sys/class/thermal/thermal_zone0/temp": "48312\n",
            "sys/class/thermal/thermal_zone1/temp": "51000\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2400000\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        },
    )
    facts = machine.describe(root)
    assert facts["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert facts["memory_bytes"] == 4 << 30
    assert facts["os"] == "Debian GNU/Linux 12 (bookworm)"
    assert facts["userland_bits"] in (32, 64)
    assert machine.state(root) == {
        "temperature_c": 51.0,
        "frequency_mhz": 2400.0,
        "governor": "ondemand",
        "load1": 1.5,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [("0\n", []), ("50000\n", ["under-voltage since boot", "throttled since boot"]), ("", None), ("junk\n", None)],
)
def test_the_firmware_driver_is_asked(tmp_path: Path, text: str, words: list[str] | None) -> None:
    write(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": text})
    assert machine.state(tmp_path).get("throttled") == words


def test_a_board_without_sensors(tmp_path: Path) -> None:
    write(tmp_path, {"sys/class/thermal/thermal_zone0/temp": "", "sys/class/thermal/cooling_device0/type": "fan"})
    assert machine.state(tmp_path) == {}
    facts = machine.describe(tmp_path)
    assert facts["board"] is None
    assert facts["memory_bytes"] is None


def test_this_machine_tells_something() -> None:
    facts = machine.describe()
    assert set(facts) == {
        *("board", "arch", "userland_bits", "cores", "python", "memory_bytes", "os", "kernel", "engines"),
    }
    assert facts["cores"] >= 1
    assert set(facts["engines"]) & {"ai_edge_litert", "tflite_runtime", "onnxruntime"}
    assert machine.state().get("load1", 0) >= 0


def test_memory_of_this_process() -> None:
    found = machine.memory()
    assert found["peak_rss_bytes"] >= found["rss_bytes"] > 1 << 20


def test_memory_without_proc(tmp_path: Path) -> None:
    found = machine.memory(tmp_path)
    assert found["rss_bytes"] is None
    assert found["peak_rss_bytes"] > 1 << 20


def test_vcgencmd_is_asked_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = write(tmp_path, {"vcgencmd": "#!/bin/sh\n[ $1 = get_throttled ] && echo throttled=0x1\n"}) / "vcgencmd"
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.state()["throttled"] == ["under-voltage"]
    tool.write_text("no program")
    assert "throttled" not in machine.state()
