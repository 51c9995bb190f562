"""Dropbear, the server of many small boards: no SFTP, and no patience with who asks for more than it has allowed."""

from __future__ import annotations

import base64
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edgeferry_devices import hostkeys, inventory
from edgeferry_devices.hostkeys import HostKey
from edgeferry_devices.inventory import Entry
from edgeferry_devices.profiling import profile
from edgeferry_devices.pushing import push
from edgeferry_devices.remote import RemoteDevice
from edgeferry_devices.route import resolve
from edgeferry_devices.running import run_on_device
from edgeferry_devices.ssh import Deadlines, connect
from edgeferry_devices.transfer import Stream
from edgeferry_runtime.benchmark import BenchOptions
from edgeferry_runtime.bundle import Bundle
from edgeferry_runtime.errors import DeviceRequirementError, UnreachableError

CALM = Deadlines(connect=5, banner=5, auth=10, channel=10, idle=10, attempts=2)
PADDING = 6_000_000
IN_ITS_OWN_VIEW = """\
mount --bind "$1/passwd" /etc/passwd
for file in /usr/lib/sftp-server /usr/lib/openssh/sftp-server /usr/libexec/sftp-server; do
    [ ! -f "$file" ] || mount --bind /dev/null "$(readlink -f "$file")"
done
exec dropbear -F -E -s -r "$1/host_key" -P "$1/pid" -p "127.0.0.1:$2"
"""
"""Root's home is a folder of the tests, where the key is that may enter; and there is no SFTP server to be found."""


@dataclass
class Dropbear:
    """A running server."""

    port: int
    key: Path
    host_key: HostKey

    def entry(self, root: Path | str, port: int = 0) -> Entry:
        return Entry("pi", "127.0.0.1", "root", port or self.port, str(self.key), str(root))


@pytest.fixture
def dropbear(
    tmp_path: Path, make_key: Callable, missing: Callable[[str], None], wait_for_server: Callable
) -> Iterator[Dropbear]:
    if not shutil.which("dropbear", path=f"{os.environ['PATH']}:/usr/sbin") or not shutil.which("dropbearkey"):
        missing("dropbear is not installed (package dropbear-bin)")
    if os.getuid():
        pytest.skip("dropbear in a view of its own needs root")
    folder = tmp_path / "dropbear"
    (folder / "home/.ssh").mkdir(mode=0o700, parents=True)
    make_key(folder / "key")
    shutil.copy(folder / "key.pub", folder / "home/.ssh/authorized_keys")
    root = pwd.getpwuid(0)
    (folder / "passwd").write_text(f"root:x:0:0:root:{folder / 'home'}:{root.pw_shell}\n")
    made = subprocess.check_output(["dropbearkey", "-t", "ed25519", "-f", folder / "host_key"], text=True)
    kind, blob = next(line.split()[:2] for line in made.splitlines() if line.startswith("ssh-ed25519"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    host_key = HostKey(kind, base64.b64decode(blob))
    hostkeys.pin(hostkeys.lookup_name("127.0.0.1", port), host_key)
    with (folder / "log").open("wb") as log:
        argv = ["unshare", "--mount", "sh", "-ec", IN_ITS_OWN_VIEW, "sh", str(folder), str(port)]
        with subprocess.Popen(
            argv, stderr=log, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        ) as server:
            try:
                wait_for_server(port, server, folder / "log")
                yield Dropbear(port, folder / "key", host_key)
            finally:
                server.terminate()


@pytest.fixture
def board(dropbear: Dropbear, root: Path) -> Iterator[RemoteDevice]:
    inventory.add(dropbear.entry(root))
    device = RemoteDevice(dropbear.entry(root), CALM)
    yield device
    device.close()


def test_push_run_and_profile(board: RemoteDevice, bundle: Bundle) -> None:
    assert not push(bundle, board).up_to_date
    assert isinstance(board.files, Stream)
    assert push(bundle, board).up_to_date
    outputs = run_on_device(bundle.path, board, {"x": np.zeros((1, 8), np.float32)})
    np.testing.assert_allclose(outputs["y"].sum(), 1, atol=1e-5)
    (measured,) = profile([bundle], ["pi"], BenchOptions(min_secs=0, num_runs=2, warmup_runs=1)).check().profiles
    assert measured.device == "pi"


@pytest.mark.parametrize("for_good", [False, True])
def test_an_upload_that_is_cut_is_taken_up(
    dropbear: Dropbear, board: RemoteDevice, make_line: Callable, make_bundle: Callable[..., Bundle], for_good: bool
) -> None:
    old, new = make_bundle(), make_bundle(padding=PADDING)
    push(old, board)
    line = make_line(dropbear.port)
    hostkeys.pin(hostkeys.lookup_name("127.0.0.1", line.port), dropbear.host_key)
    far = RemoteDevice(replace(board.entry, port=line.port), CALM)
    line.action = lambda: line.cut(for_good)
    if for_good:
        with pytest.raises(UnreachableError, match="the connection was lost while"):
            push(new, far)
        assert push(old, board).up_to_date
    whole = sum((new.path / name).stat().st_size for name in new.manifest.files)
    assert 0 < push(new, board if for_good else far).bytes_sent < whole
    far.close()


def test_the_second_key_enters_though_it_hung_up_at_the_first(
    dropbear: Dropbear, tmp_path: Path, make_key: Callable
) -> None:
    """It takes a session that is asked for before a key was accepted for an attack; so the host comes again without."""
    make_key(tmp_path / "wrong")
    route = replace(resolve(dropbear.entry("/unused")), keys=(tmp_path / "wrong", dropbear.key))
    transport = connect(route, CALM)
    assert not transport.went_ahead
    transport.close()


def test_a_folder_that_refuses(board: RemoteDevice, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(DeviceRequirementError, match="could not be copied"):
        board.put(tmp_path / "file", "/proc/no/such/folder")
