"""What every device does alike: commands and files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgeferry_devices
from edgeferry_devices.local import LocalDevice
from edgeferry_devices.remote import RemoteDevice
from edgeferry_runtime.errors import DeviceError, DeviceRequirementError, DeviceTimeoutError, RemoteCommandError

ECHO = "import json, sys; print(json.dumps([ascii(word) for word in sys.argv[1:]]))"
NASTY = [
    "",
    " ",
    "a b",
    "'",
    '"',
    "$HOME",
    "`id`",
    "$(id)",
    "*",
    "~",
    "-x",
    "a\nb",
    "\\",
    "ü",
    ";id",
    "&",
    "|",
    "#",
    "!",
]


def test_arguments_arrive_as_they_are(place: Any) -> None:
    done = place.device.exec([sys.executable, "-X", "utf8", "-c", ECHO, *NASTY])
    assert done.exit_status == 0, done.stderr
    assert json.loads(done.stdout) == [ascii(word) for word in NASTY]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8), max_size=4)
)
def test_any_argument_arrives_as_it_is(openssh: Any, root: Path, words: list[str]) -> None:
    openssh.trust()
    device = RemoteDevice(openssh.entry(root))
    try:
        done = device.exec(["printf", "%s\\0", "first", *words])
        assert done.stdout.decode().split("\0")[1:-1] == words
    finally:
        device.close()


def test_streams_do_not_block_each_other(place: Any) -> None:
    code = "import sys; d = sys.stdin.buffer.read(); sys.stderr.buffer.write(d); sys.stdout.buffer.write(d[::-1])"
    data = bytes(range(256)) * 20_000
    done = place.device.exec([sys.executable, "-c", code], stdin=data)
    assert done.stdout == data[::-1]
    assert done.stderr == data


def test_a_failed_command_carries_everything(place: Any) -> None:
    done = place.device.exec(["sh", "-c", "echo out; echo err >&2; exit 7"])
    with pytest.raises(RemoteCommandError, match="status 7: err") as caught:
        done.check(place.name)
    error = caught.value
    assert (error.host, error.exit_status, error.stdout, error.stderr) == (place.name, 7, "out\n", "err\n")
    assert error.command == ("sh", "-c", "echo out; echo err >&2; exit 7")


def test_a_command_that_does_not_end(place: Any) -> None:
    with pytest.raises(DeviceTimeoutError, match="sleep"):
        place.device.exec(["sleep", "30"], timeout=0.3)
    assert place.device.exec(["echo", "still there"]).stdout == b"still there\n"


def test_a_command_that_is_not_there(place: Any) -> None:
    try:
        status = place.device.exec(["no-such-command"]).exit_status
    except RemoteCommandError as error:
        status = error.exit_status
    assert status == 127


@pytest.mark.parametrize("size", [0, 1, 255 * 1024, 3_000_001])
def test_files_survive_both_ways(place: Any, tmp_path: Path, size: int) -> None:
    source, back = tmp_path / "it's a file", tmp_path / "back"
    source.write_bytes(bytes(i * 7 % 251 for i in range(size)))
    assert place.device.put(source, str(tmp_path / "there; $x")) == size
    place.device.get(str(tmp_path / "there; $x"), back)
    assert back.read_bytes() == source.read_bytes()


def test_a_folder_that_is_not_there(place: Any, bundle: Any, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"sending|copying") as caught:
        place.device.put(bundle.artifact, str(tmp_path / "absent" / "x"))
    assert caught.value.exit_code == 4


def test_a_full_disk(pi: RemoteDevice, tmp_path: Path) -> None:
    if subprocess.run(["test", "-w", "/dev/full"], check=False).returncode:
        pytest.skip("there is no /dev/full")
    source = tmp_path / "source"
    source.write_bytes(bytes(1000))
    with pytest.raises(DeviceRequirementError, match="check the free space"):
        pi.put(source, "/dev/full")


def test_every_public_name_is_there() -> None:
    assert all(getattr(edgeferry_devices, name) for name in edgeferry_devices.__all__)
    with pytest.raises(AttributeError):
        _ = edgeferry_devices.nothing  # type: ignore[attr-defined]
    assert dir(edgeferry_devices) == edgeferry_devices.__all__


def test_local_needs_no_paramiko(tmp_path: Path) -> None:
    """Importing and using the device `local` loads nothing of SSH."""
    text = "import sys; from pathlib import Path; from edgeferry_devices.local import LocalDevice as L\n"
    text += "a = L(Path(sys.argv[1])).open_agent(); a.ask('hello'); a.close(); assert 'paramiko' not in sys.modules"
    subprocess.run([sys.executable, "-c", text, str(tmp_path / "root")], check=True)
    assert LocalDevice(tmp_path / "root").name == "local"
