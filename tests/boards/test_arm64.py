"""A 64-bit board, a Raspberry Pi 4 by its core, with only Python and sshd, from end to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import journey
import pytest
from board import Board

pytestmark = pytest.mark.boards


def test_from_a_bare_board_to_a_report_and_back(
    start_board: Callable[..., Board], known: Callable, ferry: Callable, make_bundle: Callable, tmp_path: Path
) -> None:
    board = known("pi4", start_board(cpu="cortex-a72"))
    journey.go(journey.Traveller(board, "pi4", ferry, "ai_edge_litert"), make_bundle, tmp_path)
