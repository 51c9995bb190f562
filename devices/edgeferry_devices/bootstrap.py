"""What runs on a device before anything of ours is there: sent as text to its Python, standard library only.

``python - REQUEST`` performs one operation, ``prepare``, ``install`` or ``purge``, and prints one line of JSON.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

MARKER = ".edgeferry-device"
STAMP = "edgeferry.json"
SERVICE = "service"
SPARE_BYTES = 8 << 20


class RefusalError(Exception):
    """The device cannot take us: the reason, and the way out."""


def prepare(request: dict[str, Any]) -> dict[str, Any]:
    """Make the root, and say which wheels must come and where to put them."""
    root = Path(request["root"])
    made = [folder for folder in root.parents if not folder.exists()]
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (root / MARKER).exists() and any(root.iterdir()):
        raise RefusalError(
            f"{root} holds files that are not ours", "give the device another --root, or empty that folder"
        )
    if not (root / MARKER).exists():
        (root / MARKER).write_text(json.dumps({"made": [str(folder) for folder in made]}))
    incoming = root / "wheels" / "incoming"
    with locked(root):
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(parents=True)
    missing = {digest: wheel for digest, wheel in request["wheels"].items() if not whole(root, digest, wheel["name"])}
    needed = sum(w["size"] for w in missing.values()) + sum(w["unpacked"] for w in request["wheels"].values())
    stats = os.statvfs(root)
    free = stats.f_bavail * stats.f_frsize
    if needed + SPARE_BYTES > free:
        reason = f"{root} has {free / 1e6:.0f} MB free, and {(needed + SPARE_BYTES) / 1e6:.0f} MB are needed"
        raise RefusalError(reason, "free some space, or give the device another --root")
    return {"missing": list(missing), "incoming": str(incoming)}


def install(request: dict[str, Any]) -> dict[str, Any]:
    """Check the wheels, make the virtual environment, and install into it.

    An installation that is not finished leaves a stamp without a runtime, which still says which parts were wanted.
    """
    root = Path(request["root"])
    with locked(root):
        for digest, wheel in request["wheels"].items():
            admit(root, digest, wheel["name"])
        anew = request.get("fresh") or not (root / "venv" / STAMP).exists()
        if anew:
            shutil.rmtree(root / "venv", ignore_errors=True)
        put_stamp(root, {**request["stamp"], "runtime": "", "wheels": {}})
        if anew:
            shared = request.get("system_site_packages", False)
            venv.create(root / "venv", symlinks=True, with_pip=False, system_site_packages=shared)
        python = str(root / "venv" / "bin" / "python")
        check_environment(python, root / "venv")
        pip_install(python, root, request["wheels"])
        put_stamp(root, request["stamp"])
        shutil.rmtree(root / "wheels", ignore_errors=True)
        return {"python": python, "service": tend([python, "-I"], "refresh", root)}


def put_stamp(root: Path, stamp: dict[str, Any]) -> None:
    """Say what is installed, whole or not at all."""
    part = root / "venv" / f"{STAMP}.part"
    part.parent.mkdir(exist_ok=True)
    part.write_text(json.dumps(stamp))
    part.replace(root / "venv" / STAMP)


def purge(request: dict[str, Any]) -> dict[str, Any]:
    """Remove our folder, the marker last, and the folders that were made for it and are empty again.

    Links are removed, not followed.
    """
    root = Path(request["root"])
    if root.is_symlink():
        raise RefusalError(f"{root} is a link to {root.resolve()}", "remove both by hand, or add it with that --root")
    if not root.exists():
        return {"removed": False, "files": 0, "bytes": 0}
    if not (root / MARKER).is_file():
        raise RefusalError(f"{root} is not ours: it has no {MARKER}", "look what is there, and remove it by hand")
    made = parents_made(root)
    with locked(root):
        if said := tend(request.get("python", []), "remove", root):
            fix = f"stop it by hand, and remove {root / SERVICE}; then try again"
            raise RefusalError(f"the service of {root} cannot be removed ({said})", fix)
        files = [path.lstat().st_size for path in walk(root)]
        for path in root.iterdir():
            if path.name != MARKER:
                remove(path)
        shutil.rmtree(root)
    for folder in made:
        with contextlib.suppress(OSError):
            folder.rmdir()
    return {"removed": True, "files": len(files), "bytes": sum(files)}


def tend(python: Any, what: str, root: Path) -> str:
    """Have our runtime there bring a service up to date, or remove it; return what went wrong, or nothing."""
    if not (root / SERVICE).is_dir():
        return ""
    argv = [*python, "-m", "edgeferry_runtime.device_service", what, str(root)]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=root, check=False)
    except OSError as error:
        return str(error)
    said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
    return said[-1][:300] if done.returncode else ""


def parents_made(root: Path) -> list[Path]:
    """Return the folders above ours that were made for it, the nearest first."""
    try:
        named = json.loads((root / MARKER).read_text())["made"]
        return [folder for folder in root.parents if str(folder) in named]
    except (ValueError, KeyError, TypeError):
        return []


def walk(root: Path) -> Any:
    """Yield every file and link below a folder."""
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (Path(folder, name) for name in (*files, *links))


def remove(path: Path) -> None:
    """Remove a file, a link or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def check_environment(python: str, folder: Path) -> None:
    """Make sure that what is installed goes into our environment, and into no other."""
    ask = [python, "-I", "-c", "import sys; sys.stdout.write(sys.prefix)"]
    prefix = subprocess.run(ask, capture_output=True, text=True, check=False).stdout
    if not prefix or Path(prefix).resolve() != folder.resolve():
        raise RefusalError(f"{folder} is not a working environment of ours", "remove that folder, then try again")


def pip_install(python: str, root: Path, wheels: dict[str, Any]) -> None:
    """Install wheels from files alone, by the pip that is one of them."""
    paths = [str(place(root, digest, wheel["name"])) for digest, wheel in wheels.items()]
    pip = next(path for path in paths if Path(path).name.startswith("pip-"))
    quiet = ["--quiet", "--no-index", "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--no-compile"]
    others = [path for path in paths if path != pip]
    done = subprocess.run(  # noqa: PLW1510 - the status is looked at below
        [python, "-I", f"{pip}/pip", "--isolated", "install", *quiet, *others], capture_output=True, text=True
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["it printed nothing"]
        raise RefusalError(f"pip could not install ({said[0][:300]})", "check the free space and the device's Python")


def place(root: Path, digest: str, name: str) -> Path:
    """Return where a wheel of this content lies; pip needs its name."""
    return root / "wheels" / digest[:32] / Path(name).name


def whole(root: Path, digest: str, name: str) -> bool:
    """Tell whether a wheel is there, unharmed."""
    path = place(root, digest, name)
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def admit(root: Path, digest: str, name: str) -> None:
    """Move an uploaded wheel to its place if it is what it should be."""
    if whole(root, digest, name):
        return
    part = root / "wheels" / "incoming" / f"{digest}.part"
    if not part.is_file() or hashlib.sha256(part.read_bytes()).hexdigest() != digest:
        raise RefusalError(f"{name} arrived damaged: its SHA-256 differs", "try again")
    place(root, digest, name).parent.mkdir(parents=True, exist_ok=True)
    part.replace(place(root, digest, name))


@contextlib.contextmanager
def locked(root: Path) -> Any:
    """Hold the lock of the device; see `edgeferry_runtime.store`."""
    with (root / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RefusalError(f"{root} is in use by another command", "wait for it to end, then try again") from None
        lock.truncate(0)
        lock.write(json.dumps({"owner": "an installation", "since": time.time()}))
        lock.flush()
        yield


def main() -> None:
    """Perform the one request."""
    request = json.loads(sys.argv[1])
    try:
        answer = {"result": {"prepare": prepare, "install": install, "purge": purge}[request["op"]](request)}
    except RefusalError as refusal:
        answer = {"error": {"reason": refusal.args[0], "fix": refusal.args[1]}}
    except OSError as error:
        reason = f"{error.filename or request['root']} cannot be written ({error.strerror or error})"
        answer = {"error": {"reason": reason, "fix": "free some space there, or give the device another --root"}}
    sys.stdout.write(f"\n{json.dumps({'edgeferry': answer})}\n")


if __name__ == "__main__":
    main()
