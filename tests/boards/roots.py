"""Builds the roots of the boards, once: ``python tests/boards/roots.py [arm64] [armhf]``, or ``make boards``.

Packages are unpacked, and the little that their scripts would do is done from outside: nothing runs emulated, and
a root takes seconds instead of minutes. It needs root, for the owners of files.
"""

from __future__ import annotations

import fcntl
import os
import py_compile
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from debian import Archive, unpack
from recipe import EMULATOR_SUITE, KINDS, PACKAGES, SUITE, Kind, built, cache

PI = 1000
SSHD_CONFIG = """\
HostKey /etc/ssh/host_key
PidFile none
AuthorizedKeysFile .ssh/authorized_keys
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
PrintMotd no
UseDNS no
Subsystem sftp /usr/lib/openssh/sftp-server
"""


def build(cache: Path, kinds: list[str]) -> None:
    """Build what is not there yet: the emulator, the key of the user `pi`, and the roots of these kinds."""
    folder = built(cache)
    with locked(cache):
        folder.mkdir(exist_ok=True)
        _whole(folder / "qemu", _make_emulators)
        _whole(folder / "key", _make_key)
        for name in kinds:
            _whole(folder / name, lambda part, kind=KINDS[name]: _make_root(part, kind, folder / "key"))


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Keep other builders out; what they left unfinished when they were killed is removed."""
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache.glob("*/.part-*"):
            shutil.rmtree(leftover)
        yield


def _whole(target: Path, make: Callable[[Path], None]) -> None:
    """Make a folder whole or not at all."""
    if target.is_dir():
        return
    started = time.monotonic()
    part = Path(tempfile.mkdtemp(prefix=f".part-{target.name}-", dir=target.parent))
    try:
        make(part)
        part.chmod(0o755)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"built {target} in {time.monotonic() - started:.0f} s", file=sys.stderr)


def _make_emulators(folder: Path) -> None:
    host = subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()
    with tempfile.TemporaryDirectory() as scratch:
        unpack(Archive(Path(scratch), EMULATOR_SUITE, host).alone(["qemu-user"]), folder / "all")
        for kind in KINDS.values():
            shutil.copy2(folder / "all/usr/bin" / kind.emulator, folder / kind.emulator)
    shutil.rmtree(folder / "all")


def _make_key(folder: Path) -> None:
    generate_key(folder / "id_ed25519")
    owner = int(os.environ.get("SUDO_UID", os.getuid()))
    os.chown(folder / "id_ed25519", owner, -1)


def generate_key(path: Path) -> None:
    """Make a key pair of SSH."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "board", "-f", str(path)], check=True)


def _make_root(root: Path, kind: Kind, key: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        archive = Archive(Path(scratch), SUITE, kind.architecture)
        unpack(archive.with_dependencies([*PACKAGES, *kind.packages]), root)
    _add_users(root)
    _let_in(root, key / "id_ed25519.pub")
    _choose_alternatives(root, kind)
    _compile_python(root)


def _add_users(root: Path) -> None:
    """Do what base-passwd and openssh-server would, and add `pi` as Raspberry Pi OS has it."""
    for name, lines in {
        "passwd": f"sshd:*:101:65534::/run/sshd:/usr/sbin/nologin\npi:*:{PI}:{PI}:,,,:/home/pi:/bin/bash\n",
        "group": f"pi:x:{PI}:\n",
    }.items():
        masters = (root / "usr/share/base-passwd" / f"{name}.master").read_text()
        (root / "etc" / name).write_text(masters + lines)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 raspberrypi\n")
    (root / "etc/resolv.conf").touch()
    (root / "tmp").chmod(0o1777)


def _let_in(root: Path, public: Path) -> None:
    """Set up sshd, and the home of `pi` with the key that may enter."""
    (root / "etc/ssh/sshd_config").write_text(SSHD_CONFIG)
    generate_key(root / "etc/ssh/host_key")
    home = root / "home/pi"
    (home / ".ssh").mkdir(parents=True)
    for name in (".bashrc", ".profile"):
        shutil.copy2(root / "etc/skel" / name, home / name)
    shutil.copy2(public, home / ".ssh/authorized_keys")
    (home / ".ssh").chmod(0o700)
    for path in (home, *home.rglob("*")):
        os.chown(path, PI, PI)


def _choose_alternatives(root: Path, kind: Kind) -> None:
    """Link what update-alternatives would."""
    (root / "usr/bin/awk").symlink_to("mawk")
    libraries = root / "usr/lib" / kind.triplet
    for name in ("blas", "lapack"):
        if (libraries / name).is_dir():
            (libraries / f"lib{name}.so.3").symlink_to(f"{name}/lib{name}.so.3")


def _compile_python(root: Path) -> None:
    """Do what py3compile would; the byte code of one version of Python is the same on every machine."""
    library = next((root / "usr/lib").glob("python3.*"))
    if library.name != f"python3.{sys.version_info.minor}":
        print(f"no byte code for {library.name}: Python starts more slowly there", file=sys.stderr)
        return
    for source in [*library.rglob("*.py"), *(root / "usr/lib/python3").rglob("*.py")]:
        if "lib2to3" not in source.parts:
            py_compile.compile(str(source), dfile=f"/{source.relative_to(root)}", doraise=False, quiet=2)


def main() -> None:
    """Build the kinds that are named, else all; what needs root is done through sudo."""
    unknown = sorted({*sys.argv[1:]} - {*KINDS})
    if unknown:
        print(f"unknown boards {', '.join(unknown)}; valid are {', '.join(KINDS)}", file=sys.stderr)
        sys.exit(2)
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid():
        named = f"EDGEFERRY_BOARDS={folder}"
        os.execvp("sudo", ["sudo", named, sys.executable, *sys.argv])
    build(folder, sys.argv[1:] or list(KINDS))


if __name__ == "__main__":
    main()
