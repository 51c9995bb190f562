"""How fast a push is, beside scp and rsync with their defaults, in one run: on loopback, and through delay and loss.

It needs OpenSSH's server, scp, rsync and onnxruntime; for delay and loss also root and TUN (see network/line.py), else
those lines are left out. Every figure is the median of whole runs, connecting included.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeferry_devices import hostkeys
from edgeferry_devices.hostkeys import HostKey
from edgeferry_devices.inventory import Entry
from edgeferry_devices.pushing import push
from edgeferry_devices.remote import RemoteDevice
from edgeferry_devices.ssh import Deadlines
from edgeferry_devices.wheel import runtime_version
from edgeferry_runtime.bundle import Bundle, Manifest, Probe, write_bundle
from edgeferry_runtime.numerics import Tolerance
from edgeferry_runtime.store import MARKER
from edgeferry_runtime.tensors import TensorSpec

NAMESPACE, HERE, THERE = "edgeferry-bench", "10.231.7.1", "10.231.7.2"
CONFIG = """\
Port {port}
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/client_key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UseDNS no
Subsystem sftp internal-sftp
SetEnv HOME={folder}/home
"""
UNCHANGED = "push of what is there, 0 bytes"
PATIENT = Deadlines(connect=30, banner=30, auth=60, channel=60, idle=120)


@dataclass(frozen=True)
class Case:
    """A line: its name, delay in ms and loss each way, payload in MB, and runs."""

    name: str
    delay_ms: float
    loss: float
    megabytes: int
    runs: int


CASES = (
    Case("loopback", 0, 0, 100, 5),
    Case("10 ms", 10, 0, 20, 3),
    Case("50 ms", 50, 0, 20, 3),
    Case("10 ms, 1 % loss", 10, 0.01, 5, 3),
)


@dataclass(frozen=True)
class Server:
    """A running sshd."""

    address: str
    port: int
    folder: Path

    def device(self, root: Path) -> RemoteDevice:
        """Open it."""
        user = subprocess.check_output(["id", "-un"], text=True).strip()
        return RemoteDevice(
            Entry("board", self.address, user, self.port, str(self.folder / "client_key"), str(root)), PATIENT
        )

    def ssh_options(self) -> list[str]:
        """Return what scp and ssh need to reach it."""
        known = f"UserKnownHostsFile={self.folder}/known_hosts"
        return ["-i", str(self.folder / "client_key"), "-o", known, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]


@contextlib.contextmanager
def line(case: Case) -> Iterator[tuple[str, list[str]]]:
    """Set up a line, and yield the address at its other end and what starts a command there."""
    if not case.delay_ms:
        yield "127.0.0.1", []
        return
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        subprocess.run(["ip", "-n", NAMESPACE, "link", "set", "lo", "up"], check=True)
        shim = [sys.executable, str(Path(__file__).parent / "network" / "line.py"), NAMESPACE, HERE, THERE]
        argv = [*shim, str(case.delay_ms), str(case.loss)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as carrier:
            try:
                assert carrier.stdout is not None
                carrier.stdout.readline()
                yield THERE, ["ip", "netns", "exec", NAMESPACE]
            finally:
                carrier.kill()
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=False)


@contextlib.contextmanager
def server(folder: Path, address: str, prefix: list[str]) -> Iterator[Server]:
    """Run OpenSSH's server at the other end."""
    (folder / "home").mkdir(parents=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host_key", "client_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(CONFIG.format(port=port, folder=folder))
    kind, blob = (folder / "host_key.pub").read_text().split()[:2]
    (folder / "known_hosts").write_text(f"[{address}]:{port} {kind} {blob}\n")
    hostkeys.pin(hostkeys.lookup_name(address, port), HostKey(kind, base64.b64decode(blob)))
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin") or "sshd"
    with subprocess.Popen([*prefix, sshd, "-D", "-f", str(folder / "sshd_config")]) as process:
        try:
            wait_for(address, port)
            yield Server(address, port, folder)
        finally:
            process.terminate()


def wait_for(address: str, port: int) -> None:
    """Wait until something listens."""
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=2):
            return
        time.sleep(0.1)
    raise SystemExit("sshd did not start")


def prepare_root(root: Path) -> Path:
    """Make a device folder that needs no installation: its environment sees the packages of this one."""
    root.mkdir()
    (root / MARKER).touch()
    venv.create(root / "venv", symlinks=True)
    packages = next((root / "venv").glob("lib/python3*/site-packages"))
    (packages / "host.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
    stamp = {"runtime": runtime_version(), "formats": ["onnx", "tflite"], "wheels": {}}
    (root / "venv" / "edgeferry.json").write_text(json.dumps(stamp))
    return root


def make_bundle(folder: Path, payload: Path) -> Bundle:
    """Wrap one addition, and a payload that no compression helps."""
    from onnx import TensorProto, helper, save

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "tiny", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    specs = (TensorSpec("x", (1, 4), "float32"),), (TensorSpec("y", (1, 4), "float32"),)
    manifest = Manifest("payload", "model.onnx", "onnx", "none", *specs, {"format": "bench"}, Tolerance(max_abs=1e-5))
    ones = np.ones((1, 1, 4), np.float32)

    def fill(parts: Path) -> None:
        save(model, parts / "model.onnx")
        Probe({"x": ones}, {"y": 2 * ones}).save(parts / "probe.npz")
        shutil.copyfile(payload, parts / "recipe.toml")

    return write_bundle(folder, manifest, fill)


def measure(case: Case, folder: Path) -> None:
    """Print one table."""
    payload = folder / "payload"
    payload.write_bytes(np.random.default_rng(0).bytes(case.megabytes * 1_000_000))
    bundle = make_bundle(folder / "bundle", payload)
    with line(case) as (address, prefix), server(folder / "sshd", address, prefix) as there:
        rounds = [one_round(there, bundle, payload, folder / f"round{run}") for run in range(case.runs)]
    print(f"\n{case.name}, {case.megabytes} MB, median of {case.runs}\n")
    for name in rounds[0]:
        middle = statistics.median(each[name] for each in rounds)
        rate = "" if name == UNCHANGED else f"{case.megabytes / middle:7.1f} MB/s"
        print(f"  {name:28} {rate:>12} {middle:8.2f} s")


def one_round(there: Server, bundle: Bundle, payload: Path, folder: Path) -> dict[str, float]:
    """Go each way once, one after the other, and return the seconds of each."""
    folder.mkdir()
    target, root = folder / "target", prepare_root(folder / "root")
    ways = {
        "files alone, as ferry sends": lambda: put(there, payload, target, root),
        **commands(there, payload, target),
        "whole ferry push": lambda: whole_push(there, bundle, root, case_bytes(bundle)),
        UNCHANGED: lambda: whole_push(there, bundle, root, 0),
    }
    seconds = {}
    for name, go in ways.items():
        target.unlink(missing_ok=True)
        started = time.perf_counter()
        go()
        seconds[name] = time.perf_counter() - started
    shutil.rmtree(folder)
    return seconds


def case_bytes(bundle: Bundle) -> int:
    """Return how many bytes a bundle has to send."""
    return sum((bundle.path / name).stat().st_size for name in bundle.manifest.files)


def commands(there: Server, payload: Path, target: Path) -> dict[str, Callable[[], object]]:
    """Return scp and rsync with their defaults."""
    place = f"{there.address}:{target}"
    rsh = shlex.join(["ssh", "-p", str(there.port), *there.ssh_options()])
    scp = ["scp", "-q", "-P", str(there.port), *there.ssh_options(), str(payload), place]
    rsync = ["rsync", "-e", rsh, str(payload), place]
    return {
        "scp": lambda: subprocess.run(scp, check=True),
        "rsync": lambda: subprocess.run(rsync, check=True),
    }


def put(there: Server, payload: Path, target: Path, root: Path) -> None:
    """Connect and send one file."""
    device = there.device(root)
    device.put(payload, str(target))
    device.close()


def whole_push(there: Server, bundle: Bundle, root: Path, expected: int) -> None:
    """Push with all that it promises: hashes on both sides, written through to the disk, proven."""
    device = there.device(root)
    try:
        sent = push(bundle, device).bytes_sent
    finally:
        device.close()
    if sent != expected:
        raise SystemExit(f"{sent} bytes were sent, and not {expected}")


def main() -> None:
    """Measure every line that can be set up here, or those that are named."""
    wanted = sys.argv[1:]
    for case in CASES:
        if wanted and case.name not in wanted:
            continue
        if case.delay_ms and (os.getuid() or not Path("/dev/net/tun").exists()):
            print(f"\n{case.name}: left out, since it needs root and TUN")
            continue
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HOME"] = folder
            measure(case, Path(folder))


if __name__ == "__main__":
    main()
