"""Silence on C's stderr: chatter goes, complaints stay."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from edgeferry_runtime.quiet_stderr import capture_output, quiet_stderr


def test_chatter_goes_and_complaints_stay(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_stderr():
        os.write(2, b"INFO: Created a delegate.\nERROR: no memory\n")
        sys.stderr.write("from Python\n")
    os.write(2, b"INFO: afterwards\n")
    assert sorted(capfd.readouterr().err.splitlines()) == ["ERROR: no memory", "INFO: afterwards", "from Python"]


def test_an_error_passes_and_stderr_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="inner"), quiet_stderr():
        raise ValueError("inner")
    os.write(2, b"here\n")
    assert capfd.readouterr().err == "here\n"


def test_threads_do_not_lose_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    def speak() -> None:
        for _ in range(50):
            with quiet_stderr():
                os.write(2, b"INFO: chatter\n")

    threads = [threading.Thread(target=speak) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"


def test_a_process_without_stderr_goes_on() -> None:
    code = "import os\nos.close(2)\nfrom edgeferry_runtime.quiet_stderr import quiet_stderr as q\nwith q(): print('on')"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "on\n"


def test_what_native_code_says_is_kept_as_evidence(capfd: pytest.CaptureFixture[str]) -> None:
    with capture_output() as said:
        os.write(1, b"on stdout\n")
        os.write(2, b"INFO: on stderr\n")
    assert said.text == "on stdout\nINFO: on stderr\n"
    assert capfd.readouterr() == ("", "")
