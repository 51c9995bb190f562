"""The unit of systemd: whatever is data in it means nothing else, by our own reading and by systemd's."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeferry_runtime.device_service.unit import mark, owner, quote, unit_text

ROOT = Path('/home/p i/100% "$HOME"\'s')
paths = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).map(lambda t: f"/{t}")


def read_back(text: str) -> bytes:
    """Undo what systemd.syntax(7) calls quoting, and the percent sign of systemd.unit(5)."""
    assert re.fullmatch(r'"(?:[^"\\%$\n]|%%|\\x[0-9a-f]{2})*"', text), text
    plain = re.sub(r"%%", "%", text[1:-1]).encode()
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), plain)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_word_comes_back_as_it_was(word: str) -> None:
    assert read_back(quote(word)) == word.encode()


@given(paths, st.lists(paths, max_size=3))
def test_whatever_the_data_is_the_unit_has_the_same_lines(root: str, command: list[str]) -> None:
    plain, odd = unit_text(Path("/r"), Path("/r/service"), ["x"]), unit_text(Path(root), Path(root), command)
    differ = [pair for pair in zip(plain.splitlines(), odd.split("\n"), strict=False) if pair[0] != pair[1]]
    assert all(line.startswith((mark(Path("/r")), "ExecStart=")) for line, _ in differ)
    assert odd.isascii()
    assert len(odd.split("\n")) == len(plain.split("\n"))
    assert Path(owner(odd)) == Path(root)


@pytest.mark.parametrize(
    "text", ["", "[Service]\n", "# Edgeferry's service for nobody\n", '\n# Edgeferry\'s service for "/r"\n']
)
def test_a_unit_of_somebody_else_is_not_ours(text: str) -> None:
    assert owner(text) == ""


def test_what_it_asks_of_systemd() -> None:
    lines = unit_text(ROOT, ROOT / "service", ["/usr/bin/python3", "--port", "8000"]).splitlines()
    assert lines[0] == mark(ROOT)
    assert {
        *("Type=notify", "NotifyAccess=main", "WatchdogSec=30", "Restart=on-failure", "NoNewPrivileges=yes"),
        *("UMask=0077", "KillSignal=SIGTERM", "StartLimitBurst=5", "WantedBy=default.target"),
    } <= set(lines)
    assert "UnsetEnvironment=EDGEFERRY_TOKEN" in lines
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    assert start.startswith(
        'ExecStart=:/bin/sh -c \'cd "$0" && export TMPDIR="$0" && exec "$@"\' "/home/p i/100%% \\x22\\x24HOME'
    )


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path, missing: Callable[[str], None]) -> None:
    if not shutil.which("systemd-analyze"):
        missing("systemd-analyze is not installed (package systemd)")
    unit = tmp_path / "edgeferry.service"
    unit.write_text(unit_text(ROOT, ROOT / "service", ["/usr/bin/python3", 'a "word" of 100% $HOME \\ \n and é']))
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    argv = ["systemd-analyze", "--user", "--man=no", "--recursive-errors=no", "verify", unit]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
