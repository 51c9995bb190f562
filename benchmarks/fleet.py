"""What a fleet of 50 costs: all at once against one alone, the host's memory, and 10 that fail in 5 ways.

    python benchmarks/fleet.py [--boards N] [--wait SECONDS]

The boards are folders behind one OpenSSH server of this machine with its default limits, so their processors are this
machine's: what computes cannot be faster at once than its cores allow. So one round computes, and one waits on the
boards, as for a board that is hot. It needs OpenSSH's server and onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from push import Server, make_bundle, prepare_root, server

from edgeferry_devices import hostkeys, inventory
from edgeferry_devices.hostkeys import HostKey
from edgeferry_devices.inventory import Entry, Inventory
from edgeferry_runtime.store import MARKER

COMPUTES = ("--num-runs", "20", "--min-secs", "1", "--max-warmup-secs", "0")
QUICK = ("--num-runs", "5", "--min-secs", "0", "--max-warmup-secs", "0")
FAULTS = ("unreachable", "host key", "not let in", "cannot take it", "engine died")
CRASH = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"


@dataclass(frozen=True)
class Cost:
    """What one command cost."""

    seconds: float
    host_cpu_s: float
    host_peak_mb: float
    status: int
    said: str


def ferry(*argv: str | Path) -> Cost:
    """Run a command as a process of its own."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as err:
        command = [sys.executable, "-m", "edgeferry_runtime", *map(str, argv)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        said = err.read()
    spent = time.monotonic() - started
    return Cost(spent, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, process.returncode, said)


def boards(there: Server, folder: Path, count: int) -> list[Entry]:
    """Make boards that need no installation, and put them into the inventory."""
    environment = prepare_root(folder / "environment") / "venv"
    user = subprocess.check_output(["id", "-un"], text=True).strip()
    made = []
    for index in range(count):
        root = folder / f"board{index:02}"
        root.mkdir()
        (root / MARKER).touch()
        (root / "venv").symlink_to(environment)
        key = str(there.folder / "client_key")
        made.append(Entry(root.name, there.address, user, there.port, key, str(root)))
    inventory.save(Inventory({entry.name: entry for entry in made}))
    return made


def spoil(entry: Entry, fault: str, folder: Path) -> Entry:
    """Give a board a fault."""
    if fault == "unreachable":
        return replace(entry, port=1)
    if fault == "host key":
        return replace(entry, host="localhost")
    if fault == "not let in":
        return replace(entry, key=str(folder / "stranger"))
    if fault == "cannot take it":
        return replace(entry, root=f"/proc/{entry.name}")
    root = folder / f"crash-{entry.name}"
    packages = next((prepare_root(root) / "venv").glob("lib/python3*/site-packages"))
    (packages / "onnxruntime").mkdir()
    (packages / "onnxruntime" / "__init__.py").write_text(CRASH)
    return replace(entry, root=str(root))


def prepare_faults(there: Server, folder: Path, good: list[Entry]) -> None:
    """Spoil every fifth board of the inventory, in each of the ways in turn."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "stranger")], check=True)
    other = HostKey("ssh-ed25519", b"another server's key")
    hostkeys.pin(hostkeys.lookup_name("localhost", there.port), other)
    spoilt = {e.name: spoil(e, FAULTS[i // 5 % 5], folder) for i, e in enumerate(good) if i % 5 == 0}
    inventory.save(Inventory({entry.name: spoilt.get(entry.name, entry) for entry in good}))


def tell(name: str, cost: Cost) -> None:
    """Print one row."""
    print(f"  {name:44} {cost.seconds:8.1f} s {cost.host_cpu_s:8.1f} s {cost.host_peak_mb:8.0f} MB", flush=True)


def compare(name: str, bundle: Path, options: tuple[str, ...]) -> None:
    """Profile three boards alone and then all at once."""
    alone = [ferry("profile", bundle, "--on", f"board0{index}", *options) for index in range(3)]
    slowest = max(alone, key=lambda cost: cost.seconds)
    tell(f"{name}: one alone, the slowest of 3", slowest)
    together = ferry("profile", bundle, "--on", "all", *options)
    tell(f"{name}: all at once", together)
    print(f"  {'':44} {together.seconds / slowest.seconds:8.2f} times; {together.said.splitlines()[-1]}", flush=True)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boards", type=int, default=50)
    parser.add_argument("--wait", type=int, default=120, help="seconds that a board waits in the round that waits")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ.update(HOME=str(folder / "home"))
        for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "SSH_AUTH_SOCK"):
            os.environ.pop(variable, None)
        payload = folder / "payload"
        payload.write_bytes(bytes(1000))
        bundle = make_bundle(folder / "bundle", payload).path
        with server(folder / "sshd", "127.0.0.1", []) as there:
            good = boards(there, folder, asked.boards)
            load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
            print(f"{asked.boards} boards, {os.cpu_count()} cores, load of this machine before: {load}\n")
            print(f"  {'':44} {'wall':>10} {'host CPU':>10} {'host peak':>11}")
            tell("deploy to all", ferry("deploy", bundle, "all"))
            compare("computes", bundle, COMPUTES)
            waits = ("--max-load", "0", "--max-wait-secs", str(asked.wait), *QUICK)
            compare(f"waits {asked.wait} s", bundle, waits)
            prepare_faults(there, folder, good)
            failing = ferry("profile", bundle, "--on", "all", *QUICK)
            tell("every fifth fails", failing)
            print(f"\nexit {failing.status}: {failing.said.splitlines()[-1]}")
            runs = subprocess.check_output([sys.executable, "-m", "edgeferry_runtime", "fleet", "runs", "--json"])
            print(f"the journal has {len(json.loads(runs)['runs'][-1]['ended'])} ends")


if __name__ == "__main__":
    main()
