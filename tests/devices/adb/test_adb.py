"""Devices over adb: the real program and server, and a device's side that speaks the real protocol."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeferry_devices import adb, inventory
from edgeferry_devices.adb import AdbDevice
from edgeferry_devices.device import open_device
from edgeferry_devices.inventory import ADB_ROOT, Entry
from edgeferry_devices.purging import purge
from edgeferry_devices.setting_up import set_up
from edgeferry_runtime.errors import (
    AuthenticationError,
    DeviceRequirementError,
    DeviceTimeoutError,
    UnreachableError,
)

NASTY = ["", " ", "a b", "'", '"', "$HOME", "`id`", "$(id)", "*", "~", "-x", "a\nb", "\\", "ü", ";id", "&", "|", "#"]


def test_arguments_arrive_as_they_are(over_adb: AdbDevice) -> None:
    done = over_adb.exec(["printf", "%s\\0", "first", *NASTY])
    assert done.exit_status == 0, done.stderr
    assert done.stdout.decode().split("\0")[1:-1] == NASTY


def test_streams_are_apart_and_do_not_block_each_other(over_adb: AdbDevice) -> None:
    data = bytes(range(256)) * 20_000
    done = over_adb.exec(["sh", "-c", "tee /dev/stderr"], stdin=data)
    assert (done.stdout, done.stderr) == (data, data)


@pytest.mark.parametrize(("command", "status"), [("exit 7", 7), ("kill -ILL $$", 132), ("no-such-command", 127)])
def test_the_exit_status_is_the_commands(over_adb: AdbDevice, command: str, status: int) -> None:
    done = over_adb.exec(["sh", "-c", f"echo out; echo err >&2; {command}"])
    assert (done.exit_status, done.stdout) == (status, b"out\n")
    assert done.stderr.startswith(b"err\n")


def test_a_command_that_ends_its_shell_is_no_lost_connection(over_adb: AdbDevice) -> None:
    assert over_adb.exec(["exit", "3"]).exit_status == 3


def test_a_command_that_does_not_end(over_adb: AdbDevice) -> None:
    with pytest.raises(DeviceTimeoutError, match="did not end within"):
        over_adb.exec(["sleep", "30"], timeout=0.5)
    assert over_adb.exec(["echo", "still there"]).stdout == b"still there\n"


@pytest.mark.parametrize("size", [0, 1, 3_000_001])
def test_files_survive_both_ways(over_adb: AdbDevice, tmp_path: Path, size: int) -> None:
    source, there, back = tmp_path / "it's a file", tmp_path / "there; $x", tmp_path / "back"
    source.write_bytes(bytes(i * 7 % 251 for i in range(size)))
    assert over_adb.put(source, str(there)) == size
    over_adb.get(str(there), back)
    assert there.read_bytes() == back.read_bytes() == source.read_bytes()


def test_a_file_goes_on_where_it_was_cut(over_adb: AdbDevice, tmp_path: Path) -> None:
    source, there = tmp_path / "source", tmp_path / "there"
    source.write_bytes(os.urandom(100_000))
    there.write_bytes(source.read_bytes()[:60_000])
    assert over_adb.put(source, str(there), offset=60_000) == 40_000
    assert there.read_bytes() == source.read_bytes()


def test_what_cannot_be_copied_is_said(over_adb: AdbDevice, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(3_000_000))
    for copy in (
        lambda: over_adb.put(source, str(tmp_path / "absent" / "x")),
        lambda: over_adb.put(source, "/dev/full"),
        lambda: over_adb.get(str(tmp_path / "nothing"), tmp_path / "back"),
    ):
        with pytest.raises(DeviceRequirementError, match="could not be copied"):
            copy()
    assert not (tmp_path / "back").exists()


def test_a_connection_that_is_lost_is_no_success(phone: Any, over_adb: AdbDevice) -> None:
    over_adb.exec(["true"])
    threading.Timer(0.5, phone.cut).start()
    with pytest.raises(UnreachableError):
        over_adb.exec(["sh", "-c", "echo half; sleep 20"], timeout=15)


def test_another_thread_can_end_what_goes_on(over_adb: AdbDevice) -> None:
    over_adb.exec(["true"])
    threading.Timer(0.3, over_adb.interrupt).start()
    with pytest.raises(UnreachableError, match="was interrupted"):
        over_adb.exec(["sleep", "30"], timeout=15)
    with pytest.raises(UnreachableError, match="was interrupted"):
        over_adb.exec(["true"])


def test_a_device_that_asks_and_trusts(start_phone: Callable[..., Any]) -> None:
    phone = start_phone(asks=True)
    device = AdbDevice(Entry("phone", f"adb:{phone.serial}"))
    assert device.exec(["echo", "in"]).stdout == b"in\n"
    assert phone.keys
    assert b"@" in phone.keys[0]


def test_a_device_that_does_not_trust_us(start_phone: Callable[..., Any]) -> None:
    phone = start_phone(asks=True, trusts=False)
    with pytest.raises(AuthenticationError, match="accept the dialog"):
        AdbDevice(Entry("phone", f"adb:{phone.serial}")).exec(["true"])


def test_a_device_that_does_not_answer(start_phone: Callable[..., Any]) -> None:
    phone = start_phone(mute=True, waits=False)
    with pytest.raises(UnreachableError, match=r"does not answer adb \(it is offline\).*adb disconnect"):
        AdbDevice(Entry("phone", f"adb:{phone.serial}")).exec(["true"])


def test_a_device_that_is_too_old(start_phone: Callable[..., Any]) -> None:
    phone = start_phone(features="cmd")
    with pytest.raises(DeviceRequirementError, match=r"lacks shell_v2.*Android 7"):
        AdbDevice(Entry("phone", f"adb:{phone.serial}")).exec(["true"])


def test_a_device_that_is_not_there_lists_those_that_are(phone: Any) -> None:
    with pytest.raises(UnreachableError, match=rf"no device R58; there are: {phone.serial}; connect it by cable"):
        AdbDevice(Entry("phone", "adb:R58")).exec(["true"])
    with pytest.raises(UnreachableError, match=r"adb connect 127\.0\.0\.1:1$"):
        AdbDevice(Entry("phone", "adb:127.0.0.1:1")).exec(["true"])


def test_an_adb_server_that_hangs(over_adb: AdbDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(silent.getsockname()[1]))
        monkeypatch.setattr(adb, "ANSWER_S", 0.5)
        with pytest.raises(DeviceTimeoutError, match="adb kill-server"):
            over_adb.exec(["true"])


def test_an_adb_server_that_speaks_another_language(over_adb: AdbDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `adb` cannot do is told in its own words."""
    monkeypatch.setenv("ADB_SERVER_SOCKET", "nonsense:1")
    with pytest.raises(UnreachableError, match="adb failed: ") as caught:
        over_adb.exec(["true"])
    assert "adb kill-server" in caught.value.fix


def test_no_adb_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnreachableError, match="sudo apt install adb"):
        AdbDevice(Entry("phone", "adb:R58")).exec(["true"])


def test_android_has_no_python_for_an_agent(over_adb: AdbDevice) -> None:
    with pytest.raises(DeviceRequirementError, match=r"--benchmark-binary.*Termux"):
        over_adb.open_agent()


def test_nothing_is_installed_on_android_nor_purged_from_it(over_adb: AdbDevice) -> None:
    with pytest.raises(DeviceRequirementError, match="benchmark_model"):
        set_up(over_adb)
    with pytest.raises(DeviceRequirementError, match="remove that folder by hand"):
        purge(over_adb)


def test_a_device_is_opened_by_its_serial_or_its_name(phone: Any, tmp_path: Path) -> None:
    inventory.add(Entry("shelf", f"adb:{phone.serial}", root=str(tmp_path / "x")))
    for name, root in ((f"adb:{phone.serial}", ADB_ROOT), ("shelf", str(tmp_path / "x"))):
        with open_device(name) as device:
            assert isinstance(device, AdbDevice)
            assert (device.name, device.entry.root) == (name, root)
            assert device.exec(["echo", "in"]).stdout == b"in\n"
