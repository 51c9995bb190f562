"""Emulated boards, and the `ferry` that a user types on the host beside them."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import recipe  # noqa: E402
from board import AS_ROOT, Board, Hardware  # noqa: E402

from edgeferry_runtime.bundle import Bundle, Manifest, Probe, write_bundle  # noqa: E402
from edgeferry_runtime.numerics import Tolerance  # noqa: E402
from edgeferry_runtime.tensors import TensorSpec  # noqa: E402

TOOLS = ("ip", "unshare", "setpriv", "ssh", "mount")


def lacking(cache: Path) -> str:
    """Return why no board can be started here; empty where one can."""
    if sys.platform != "linux":
        return "emulated boards need Linux"
    tools = [name for name in (*TOOLS, *AS_ROOT[:1]) if not shutil.which(name)]
    if tools:
        return f"emulated boards need {', '.join(tools)}"
    if subprocess.run([*AS_ROOT, "unshare", "--net", "--mount", "true"], capture_output=True, check=False).returncode:
        return "emulated boards need root (or sudo without a password) and network namespaces"
    if not Path("/proc/sys/fs/binfmt_misc").is_dir():
        return "emulated boards need a kernel with binfmt_misc"
    if not all((recipe.built(cache) / name).is_dir() for name in ("qemu", *recipe.KINDS)):
        return f"the roots of the emulated boards are not built in {cache}; run: make boards"
    return ""


CACHE = recipe.cache()
"""As it was before the tests of other folders gave themselves caches of their own."""


@pytest.fixture(scope="session")
def cache(missing: Callable[[str], None]) -> Path:
    """Where the roots of the boards are; skips where there are none, or where no board can be started."""
    if reason := lacking(CACHE):
        missing(reason)
    return CACHE


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the host a home of its own, but the wheels that were downloaded before."""
    folder = tmp_path_factory.mktemp("host")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEFERRY_BOARDS", str(CACHE))
        patch.setenv("HOME", str(folder))
        for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "SSH_AUTH_SOCK"):
            patch.delenv(variable, raising=False)
        patch.setenv("XDG_CACHE_HOME", str(CACHE / "host"))
        yield folder


@pytest.fixture(scope="module")
def start_board(cache: Path) -> Iterator[Callable[..., Board]]:
    """Start boards of any hardware, which end with the module."""
    with contextlib.ExitStack() as running:
        yield lambda **hardware: running.enter_context(Board(Hardware(**hardware), cache))


@pytest.fixture(scope="module")
def ferry(home: Path) -> Callable[..., str]:
    """Type a command line as a user does, and return what was printed; its exit code must be as told, if it is."""

    def run(*args: object, exit_code: int | None = 0) -> str:
        typed = [str(Path(sys.executable).with_name("ferry")), *map(str, args)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE if "--json" in args else subprocess.STDOUT}
        done = subprocess.run(typed, **pipes, text=True, timeout=600, cwd=home, check=False)
        assert exit_code in (done.returncode, None), f"{typed} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def known(ferry: Callable[..., str]) -> Callable[[str, Board], Board]:
    """Add a board to the inventory and trust it."""

    def add(name: str, board: Board) -> Board:
        ferry("device", "add", name, f"pi@{board.address}", "--key", board.key)
        ferry("device", "trust", name, "--yes")
        return board

    return add


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The tiny models of the runtime's tests."""
    spec = importlib.util.spec_from_file_location("tiny_models", HERE.parent / "runtime" / "tiny_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make_bundle(tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType) -> Callable[..., Bundle]:
    """Write bundles of ``y = x + x``, or of another model; `wrong` spoils the outputs, `padding` makes them large."""

    def make(model: bytes = b"", shape: tuple[int, ...] = (1, 4), wrong: float = 0.0, padding: int = 0) -> Bundle:
        sides = (TensorSpec("x", shape, "float32"),), (TensorSpec("y", shape, "float32"),)
        manifest = Manifest(
            "tiny", "model.tflite", "tflite", "none", *sides, {"format": "test"}, Tolerance(max_abs=1e-5)
        )
        x = np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32)

        def fill(folder: Path) -> None:
            (folder / "model.tflite").write_bytes(model or tiny.tflite_double())
            Probe({"x": x}, {"y": 2 * x + np.float32(wrong)}).save(folder / "probe.npz")
            (folder / "recipe.toml").write_bytes(np.random.default_rng(2).bytes(padding))

        return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny", manifest, fill)

    return make
