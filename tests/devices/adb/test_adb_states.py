"""What ``adb devices`` tells."""

from __future__ import annotations

import pytest

from edgeferry_devices.adb_states import Listed, check_ready, parse_devices
from edgeferry_runtime.errors import AuthenticationError, DeviceError, DeviceRequirementError, UnreachableError

RECORDED = """\
* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
R58M123ABC\tdevice
192.168.1.5:5555\toffline
emulator-5554\tunauthorized
0123456789ABCDEF\tno permissions (user in plugdev group; are your udev rules wrong?)
adb-X9-AbCdEf._adb-tls-connect._tcp\tdevice
ZY22\trecovery
"""
LISTED = parse_devices(RECORDED)


def test_every_line_is_a_device_and_the_servers_own_words_are_none() -> None:
    assert [one.serial for one in LISTED] == [
        "R58M123ABC",
        "192.168.1.5:5555",
        "emulator-5554",
        "0123456789ABCDEF",
        "adb-X9-AbCdEf._adb-tls-connect._tcp",
        "ZY22",
    ]
    assert [one.state.partition(" (")[0] for one in LISTED] == [
        *("device", "offline", "unauthorized", "no permissions", "device", "recovery")
    ]
    assert parse_devices("") == parse_devices("List of devices attached\n\n") == []
    assert parse_devices("x\t\n\tdevice") == [Listed("", "device")]


@pytest.mark.parametrize("serial", ["R58M123ABC", "adb-X9-AbCdEf._adb-tls-connect._tcp"])
def test_what_is_ready_passes(serial: str) -> None:
    check_ready("phone", serial, LISTED)


@pytest.mark.parametrize(
    ("serial", "kind", "words"),
    [
        ("192.168.1.5:5555", UnreachableError, r"it is offline.*adb disconnect, then adb connect"),
        ("emulator-5554", AuthenticationError, r"accept the dialog"),
        ("0123456789ABCDEF", DeviceRequirementError, r"may not open its USB device; install udev rules"),
        ("ZY22", DeviceRequirementError, r"'recovery', not in Android"),
        ("R59", UnreachableError, r"there are: R58M123ABC, 192\.168\.1\.5:5555, .*by cable"),
        ("10.0.0.1:5555", UnreachableError, r"adb connect 10\.0\.0\.1:5555$"),
    ],
)
def test_what_is_not_ready_tells_the_way_out(serial: str, kind: type[DeviceError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        check_ready("phone", serial, LISTED)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("state", ["offline", "connecting", "authorizing"])
def test_a_cable_that_sleeps_is_told_of_cables(state: str) -> None:
    with pytest.raises(UnreachableError, match=f"it is {state}.*adb reconnect offline"):
        check_ready("phone", "A1", [Listed("A1", state)])


def test_two_of_one_serial_are_refused() -> None:
    with pytest.raises(UnreachableError, match="2 devices have the serial A1"):
        check_ready("phone", "A1", [Listed("A1", "device"), Listed("A1", "device")])


def test_none_at_all() -> None:
    with pytest.raises(UnreachableError, match="there are: none"):
        check_ready("phone", "A1", [])
