"""The command line's root: lazy, and one boundary between errors and exit codes."""

from __future__ import annotations

import errno
import subprocess
import sys

import click
import pytest

from edgeferry_runtime import __version__, cli, errors

HEAVY = ("tensorflow", "torch", "onnx", "onnxruntime", "paramiko", "ai_edge_litert", "numpy")


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom edgeferry_runtime.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for name, entry in cli.COMMANDS.items():
        assert name in done.stdout
        assert entry.help.split()[0] in done.stdout


def test_unknown_command_names_the_nearest(ferry) -> None:
    code, out, err = ferry("bensh")
    assert (code, out) == (2, "")
    assert "did you mean 'bench'?" in err
    assert len(err.splitlines()) == 1


def test_version(ferry) -> None:
    code, out, _ = ferry("--version")
    assert code == 0
    assert __version__ in out


def test_unknown_option_is_a_usage_error(ferry) -> None:
    code, _, err = ferry("bench", "model.tflite", "--numruns", "3")
    assert code == 2
    assert "--numruns" in err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (errors.DataError("x", "is\nwrong", "mend it"), 1, "ferry: error: x: is wrong; mend it"),
        (errors.GateError("x", "is slow", "hurry"), 3, "ferry: error: x: is slow; hurry"),
        (errors.UnreachableError("pi", "is off", "plug it in"), 4, "ferry: error: pi: is off; plug it in"),
        (KeyboardInterrupt(), 130, "ferry: interrupted"),
        (ZeroDivisionError("oops"), 70, "ZeroDivisionError: oops"),
    ],
)
def test_boundary(ferry, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, said: str) -> None:
    @click.command()
    def broken() -> None:
        raise raised

    monkeypatch.setattr(cli, "resolve", lambda module, attribute: broken)
    found, out, err = ferry("run")
    assert (found, out) == (code, "")
    assert said in err


def test_a_part_that_is_not_installed_is_a_missing_extra() -> None:
    with pytest.raises(errors.MissingExtraError, match=r"edgeferry\[devices\]"):
        cli.resolve("edgeferry_devices.nowhere_to_be_found.at_all", "x")


def test_a_defect_in_an_import_is_no_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_neighbour"):
        cli.resolve("no_such_neighbour", "x")


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (errno.ENOSPC, 1, "ferry: error: /disk/x: refused (full); check the path"),
        (errno.EROFS, 1, "ferry: error: /disk/x: refused (full)"),
        (errno.EBADF, 70, "unexpected error"),
    ],
)
def test_what_the_machine_refuses_is_no_defect(
    ferry, monkeypatch: pytest.MonkeyPatch, number: int, code: int, said: str
) -> None:
    @click.command()
    def broken() -> None:
        raise OSError(number, "full", "/disk/x")

    monkeypatch.setattr(cli, "resolve", lambda module, attribute: broken)
    found, out, err = ferry("run")
    assert (found, out) == (code, "")
    assert said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bench", "x", "--num-run", "3"), "ferry bench: unknown name '--num-run'; did you mean '--num-runs'?"),
        (("device", "ad"), "ferry device: unknown name 'ad'; did you mean 'add'? valid are"),
        (("run",), "ferry run: missing argument 'TARGET'; see: ferry run --help"),
        (("run", "x", "--input"), "ferry run: option '--input' requires an argument; see: ferry run --help"),
        (("run", "x", "--top", "0"), "ferry run: invalid value for '--top'"),
    ],
)
def test_misuse_is_one_line_that_leads_on(ferry, words: tuple[str, ...], said: str) -> None:
    code, out, err = ferry(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"ferry: error: {said}")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("words", [(), ("device",)])
def test_nothing_asked_for_is_answered_with_help(ferry, words: tuple[str, ...]) -> None:
    code, out, err = ferry(*words)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: ferry")
