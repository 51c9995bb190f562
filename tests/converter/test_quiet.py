from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgeferry_converter.quiet import VERBOSE, foreign, loud, quiet, require, summary
from edgeferry_runtime.errors import ConversionError, CorruptFileError, DataError, MissingExtraError


def speak() -> None:
    print("python stdout")
    print("python stderr", file=sys.stderr)
    os.write(1, b"c stdout\n")
    subprocess.run(["sh", "-c", "echo child stderr >&2"], check=True)


def test_catches_python_descriptors_and_children(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet() as noise:
        speak()
    print("after")
    assert capfd.readouterr() == ("after\n", "")
    assert set(noise.text.splitlines()) == {"python stdout", "python stderr", "c stdout", "child stderr"}


@pytest.mark.parametrize("open_door", [lambda: quiet(verbose=True), loud])
def test_verbose_lets_everything_through(capfd: pytest.CaptureFixture[str], open_door: Callable[[], object]) -> None:
    with open_door(), quiet(verbose=None if VERBOSE.get() else True):  # type: ignore[attr-defined]
        speak()
    out, err = capfd.readouterr()
    assert "c stdout" in out
    assert "child stderr" in err


def test_explicit_argument_beats_the_variable(capfd: pytest.CaptureFixture[str]) -> None:
    with loud(), quiet(verbose=False) as noise:
        speak()
    assert capfd.readouterr() == ("", "")
    assert noise.text
    assert VERBOSE.get() is False


def test_a_log_handler_made_inside_still_works_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        handler = logging.StreamHandler()
    handler.emit(logging.LogRecord("x", logging.INFO, "", 0, "late word", None, None))
    assert capfd.readouterr().err == "late word\n"


def test_noise_survives_an_exception() -> None:
    with pytest.raises(KeyError), quiet() as noise:
        print("the reason\n\n")
        raise KeyError("x")
    assert noise.tail() == "the reason"
    assert noise.tail(limit=6) == "reason"


def test_warnings_are_dropped_inside_only() -> None:
    with quiet():
        warnings.warn("noise", UserWarning, stacklevel=1)
    with pytest.raises(UserWarning):
        warnings.warn("kept", UserWarning, stacklevel=1)


def test_foreign_failure_becomes_one_clear_error() -> None:
    with pytest.raises(ConversionError) as caught, foreign("net.h5", "it broke", "mend it"):
        raise ZeroDivisionError("by zero\nlong story")
    assert str(caught.value) == "net.h5: it broke (ZeroDivisionError: by zero); mend it"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_foreign_uses_the_noise_where_the_exception_is_mute() -> None:
    with (
        pytest.raises(CorruptFileError, match=r"RuntimeError: op 7 unknown"),
        foreign("f", "no", error=CorruptFileError),
    ):
        print("op 7 unknown", file=sys.stderr)
        raise RuntimeError


def test_foreign_survives_code_that_exits() -> None:
    with pytest.raises(ConversionError, match="SystemExit: 0"), foreign("f", "no"):
        sys.exit(0)


@pytest.mark.parametrize("swallowed", [True, False])
def test_ctrl_c_that_foreign_code_made_an_error_of_or_swallowed_stays_ctrl_c(swallowed: bool) -> None:
    with pytest.raises(KeyboardInterrupt), foreign("f", "no"):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            if not swallowed:
                raise RuntimeError("pybind11: MISMATCH") from error
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("error", [DataError("x", "y", "z"), KeyboardInterrupt()])
def test_foreign_leaves_our_errors_and_interrupts_alone(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, foreign("f", "no"):
        raise error
    assert caught.value is error


def test_summary_without_words() -> None:
    assert summary(ValueError()) == "ValueError"


SLOW = """
import pathlib, time
print("begun", flush=True)
deadline = time.monotonic() + 60
while not pathlib.Path(__file__).with_name("interrupted").exists() and time.monotonic() < deadline:
    time.sleep(0.01)
print("ended", flush=True)
"""


def test_ctrl_c_waits_for_the_end_of_an_import(tmp_path: Path) -> None:
    (tmp_path / "slow_framework.py").write_text(SLOW)
    run = "from edgeferry_converter.quiet import loud, require\nwith loud(): require('x', 'keras', 'slow_framework')"
    command = [sys.executable, "-c", f"{run}\nprint('after')"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None and child.stdout.readline() == b"begun\n"
        child.send_signal(signal.SIGINT)
        (tmp_path / "interrupted").touch()
        out, err = child.communicate()
    assert out == b"ended\n"
    assert err.rstrip().endswith(b"KeyboardInterrupt")


def test_an_import_in_a_thread_is_left_alone() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(require, "x", "keras", "json").result().dumps


def test_require_names_the_extra() -> None:
    assert require("x", "keras", "json").dumps
    with pytest.raises(MissingExtraError, match=r"pip install 'edgeferry\[keras\]'"):
        require("net.keras", "keras", "no_such_framework.sub")


def test_summary_skips_colours_and_preambles() -> None:
    error = ValueError("Exception encountered when calling Functional.call().\n\n\x1b[1mThe rank is 3.\x1b[0m\n")
    assert summary(error) == "ValueError: The rank is 3."
