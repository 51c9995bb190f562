"""What a live board is said to be, before anything of ours is there."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from board import Board

pytestmark = pytest.mark.boards


@pytest.mark.parametrize(("core", "verdict"), [("cortex-a72", "warning"), ("cortex-a76", "ok")])
def test_doctor_warns_of_sigill_where_the_core_lacks_instructions(
    start_board: Callable[..., Board], known: Callable, ferry: Callable[..., str], core: str, verdict: str
) -> None:
    known(core, start_board(cpu=core))
    findings = json.loads(ferry("doctor", core, "--json"))["findings"]
    (found,) = [finding for finding in findings if finding["check"] == "instructions"]
    assert found["verdict"] == verdict
    assert ("SIGILL" in found["reason"]) == (verdict == "warning")


def test_facts_of_a_live_board(start_board: Callable[..., Board], known: Callable, ferry: Callable[..., str]) -> None:
    board = known("pi", start_board(kind="armhf", disk_mb=300))
    facts = json.loads(ferry("device", "info", "pi", "--json"))
    (python,) = facts["pythons"]
    assert facts["machine"]["userland_bits"] == python["bits"] == 32
    assert facts["machine"]["arch"] == "armv7l"
    assert "neon" in facts["machine"]["features"]
    assert facts["machine"]["os"].startswith("Debian GNU/Linux 12")
    assert (python["version"][:2], python["libc"], python["venv"]) == ([3, 11], "glibc 2.36", True)
    assert python["numpy"].startswith("1.24")
    assert facts["folder"]["total_bytes"] == 300 << 20
    assert (facts["folder"]["home"], facts["runtime"]) == ("/home/pi", "")
    assert "temperature_c" not in facts["state"]
    assert board.run("ls -A .local .cache 2>/dev/null; true") == ""
