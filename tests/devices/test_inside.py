"""Executing in a distribution inside a device: a Termux-like one, whose proot-distro starts the real proot."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeferry_devices import inside, inventory, purging
from edgeferry_devices.device import silent
from edgeferry_devices.facts import gather
from edgeferry_devices.pushing import push
from edgeferry_devices.remote import RemoteDevice
from edgeferry_devices.servicing import restart_service, start_service
from edgeferry_devices.setting_up import set_up
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import DeviceRequirementError, UsageError

TOOLS = ("sh", "cat", "date", "df", "env", "getconf", "head", "id", "ls", "mkdir", "readlink", "tr", "uname", "wc")
SHARED = ("/usr", "/bin", "/lib", "/lib64", "/proc", "/dev", "/etc")
"""What the distribution is made of; of the device it sees the home alone, as proot-distro shows it."""
DISTRO = """#!/bin/sh
[ "$1" = login ] && [ "$3" = -- ] || exit 64
root="$PREFIX/var/lib/proot-distro/containers/$2/rootfs"
shift 3
exec {proot} -r "$root" {binds} -b "$HOME" -w / \\
  /usr/bin/env -i HOME=/root PATH=/usr/bin:/bin "$@"
"""
ANDROID = """#!/bin/sh
echo '{"edgeferry": {"python": "/data/python3", "version": [3, 12, 7], "system": "android", "bits": 64, \
"machine": "aarch64", "libc": "", "venv": true, "page_size": 4096, "numpy": null, "engines": {}, "imports": {}}}'
"""


def write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def phone(tmp_path: Path, start_openssh: Callable, missing: Callable[[str], None]) -> Iterator[RemoteDevice]:
    """Termux's layout behind a real sshd on a high port: its programs below $PREFIX, its Python one of Android."""
    if not shutil.which("proot"):
        missing("proot is not installed")
    able = "import venv, sys; sys.exit(sys.version_info < (3, 10))"
    if subprocess.run(["/usr/bin/python3", "-c", able], check=False).returncode:
        missing("/usr/bin/python3 is not Python 3.10 or newer with venv")
    prefix = tmp_path / "com.termux" / "usr"
    (prefix / "bin").mkdir(parents=True)
    for name in TOOLS:
        (prefix / "bin" / name).symlink_to(str(shutil.which(name)))
    home = tmp_path / "sshd0" / "home"
    for path in (*SHARED, home):  # what proot makes for itself it takes away at its end, from under other sessions
        (prefix / f"var/lib/proot-distro/containers/debian/rootfs{path}").mkdir(parents=True)
    binds = " ".join(f"-b {path}" for path in SHARED if Path(path).exists())
    write_script(prefix / "bin/proot-distro", DISTRO.format(proot=shutil.which("proot"), binds=binds))
    write_script(prefix / "bin/python3", ANDROID)
    server = start_openssh(f"SetEnv HOME={home} PATH={prefix}/bin PREFIX={prefix}\n")
    server.trust()
    entry = server.entry("~/edgeferry", "phone")
    inventory.add(entry)
    device = RemoteDevice(entry)
    yield device
    device.close()


def within(device: RemoteDevice) -> RemoteDevice:
    device.entry = replace(device.entry, inside="proot:debian")
    return device


@pytest.mark.parametrize(
    "text", ["debian", "proot:", "proot:../x", "proot:a b", "chroot:debian", "proot:-x", "proot:a\n"]
)
def test_what_names_no_distribution(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not proot:DISTRIBUTION; give one such as proot:debian"):
        inside.check_inside(text)


def test_names_of_distributions() -> None:
    assert inside.check_inside("") == ""
    assert inside.check_inside("proot:ubuntu-24.04") == "proot:ubuntu-24.04"


def test_without_one_a_command_stays_as_it_is() -> None:
    assert inside.wrap("", ["a", "b c"]) == ["a", "b c"]


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The shell's environment with a proot-distro that quotes as the oldest versions do: by quotes around each word."""
    folder = tmp_path_factory.mktemp("login")
    quoting = 'shift 3; c=""; for w in "$@"; do c="$c \'$w\'"; done; exec sh -c "$c"'
    write_script(folder / "proot-distro", f"#!/bin/sh\n{quoting}\n")
    return {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": "/home of mine"}


@settings(max_examples=25)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4))
def test_arguments_arrive_as_they_are(login: dict[str, str], words: list[str]) -> None:
    show = ["python3", "-c", "import os, sys; sys.stdout.write(repr((os.environ['HOME'], sys.argv[1:])))", *words]
    argv = inside.wrap("proot:debian", show)
    assert not [word for word in argv[3:] if "'" in word]
    said = subprocess.run(argv, env=login, capture_output=True, check=True).stdout.decode()
    assert said == repr(("/home of mine", words))


def test_commands_run_in_the_distribution_and_files_go_to_one_place(phone: RemoteDevice, tmp_path: Path) -> None:
    assert b"Linux" in phone.exec(["uname"]).stdout
    assert phone.exec(["sh", "-c", "command -v python3"]).stdout.decode().startswith(str(tmp_path / "com.termux"))
    within(phone)
    found = phone.exec(["sh", "-c", "command -v python3"])
    assert (found.stderr, found.stdout) == (b"", b"/usr/bin/python3\n")
    home = phone.exec(["sh", "-c", "echo $HOME"]).stdout.decode().strip()
    assert home == str(tmp_path / "sshd0/home")
    phone.put(Path(__file__), f"{home}/it's here")
    assert phone.exec(["cat", f"{home}/it's here"]).stdout == Path(__file__).read_bytes()
    assert phone.exec(["sh", "-s"], stdin=b"exit 7\n").exit_status == 7


def test_the_distribution_is_found(phone: RemoteDevice, tmp_path: Path) -> None:
    containers = tmp_path / "com.termux/usr/var/lib/proot-distro/containers"
    for name in ("alpine", "evil'; id"):
        (containers / name).mkdir()
    assert inside.find(phone) == "proot:debian"
    shutil.rmtree(containers / "debian")
    assert inside.find(phone) == "proot:alpine"
    shutil.rmtree(containers / "alpine")
    assert inside.find(phone) == ""


def test_a_phone_without_a_distribution_is_told_what_to_type(phone: RemoteDevice, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "com.termux/usr/var/lib/proot-distro")
    with pytest.raises(DeviceRequirementError, match=r"Android's C library; type in Termux: pkg install proot-distro"):
        set_up(phone)
    assert inventory.get("phone").inside == ""


def test_a_service_that_would_end_with_its_login_is_refused(phone: RemoteDevice, bundle: Bundle) -> None:
    within(phone)
    assert gather(phone).machine["inside"] == "proot:debian"
    reason = "phone: cannot serve: what runs in a distribution inside ends with the login that started it; run models"
    for perform in (start_service, restart_service, lambda device: set_up(device, serve=True)):
        with pytest.raises(DeviceRequirementError, match=reason):
            perform(phone)
    phone.entry = replace(phone.entry, inside="")
    with pytest.raises(DeviceRequirementError, match=reason):
        set_up(phone, serve=True)


@pytest.mark.slow
def test_from_nothing_to_a_pushed_bundle(phone: RemoteDevice, tmp_path: Path, bundle: Bundle) -> None:
    """Downloads real wheels; everything of ours lies in Termux's home, and goes again."""
    home = tmp_path / "sshd0/home"
    before = sorted(home.rglob("*"))
    said: list[str] = []
    done = set_up(phone, ["onnx"], say=said.append)
    assert "phone: there are no engines for Android itself: using proot:debian" in said
    assert (done.inside, done.root, done.failed) == ("proot:debian", f"{home}/edgeferry", [])
    assert inventory.get("phone").inside == "proot:debian"
    assert stat.S_IMODE((home / "edgeferry").stat().st_mode) == 0o700
    again = RemoteDevice(inventory.get("phone"))
    try:
        assert set_up(again, ["onnx"]).up_to_date
        assert push(bundle, again, silent).figures[0]["max_abs"] < 1e-5
        assert purging.purge(again).removed
    finally:
        again.close()
    assert sorted(home.rglob("*")) == before
