"""A 32-bit board with Python, its NumPy and sshd, from end to end, on tflite-runtime."""

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
    board = known("pi2", start_board(kind="armhf"))
    traveller = journey.Traveller(board, "pi2", ferry, "tflite_runtime", can_serve=False)
    journey.go(traveller, make_bundle, tmp_path)
