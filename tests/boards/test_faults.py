"""What only a board can show: its power fails, its disk is full, its memory is too small."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from board import Board, number_of
from journey import Traveller

from edgeferry_runtime.bundle import Bundle

pytestmark = pytest.mark.boards

PADDING = 120_000_000
SIDE = 20_000
ROOT = "~/.local/share/edgeferry"


@pytest.fixture(scope="module")
def ready(start_board: Callable, known: Callable, ferry: Callable, make_bundle: Callable) -> tuple[Traveller, Bundle]:
    """A small board that is set up, and has a release."""
    board = known("pi", start_board(disk_mb=450, memory_mb=900))
    traveller, bundle = Traveller(board, "pi", ferry, "ai_edge_litert"), make_bundle()
    traveller.set_up_offline()
    traveller.proves(bundle)
    return traveller, bundle


def test_the_memory_is_too_small(
    ready: tuple[Traveller, Bundle], make_bundle: Callable, tiny: ModuleType, tmp_path: Path
) -> None:
    there, bundle = ready
    too_much = make_bundle(hungry(tiny), (1, SIDE, 1))
    said = there.ferry("push", too_much.path, there.name, exit_code=1)
    assert "most likely for want of memory" in said
    there.answers(bundle, tmp_path)


def hungry(tiny: ModuleType) -> bytes:
    """Write a model that makes a square of a column and a row, and a column of that: more than the board has."""
    graph = tiny.Graph()
    x, square, y = (graph.tensor(*each) for each in (("x", (1, SIDE, 1)), ("h", (1, SIDE, SIDE)), ("y", (1, SIDE, 1))))
    row = graph.tensor("row", (1, 1, SIDE), data=np.ones((1, 1, SIDE), np.float32))
    axes = graph.tensor("axes", (1,), "int32", data=np.int32([2]))
    graph.operator("ADD", (x, row), (square,))
    graph.operator("MEAN", (square, axes), (y,), {0: np.bool_(True)})
    return graph.file((x,), (y,))


def test_the_disk_is_full(ready: tuple[Traveller, Bundle], make_bundle: Callable) -> None:
    there, _ = ready
    before, another = there.current(), make_bundle(padding=1000)
    there.board.run("head -c 600M /dev/zero > filler 2>/dev/null; true")
    assert "has 0.0 MB free" in there.ferry("push", another.path, there.name, exit_code=4)
    assert there.current() == before
    there.board.run("rm filler")
    there.proves(another)
    assert (there.current(), torn(there.board)) == (another.id, [])


def test_power_fails_during_a_push(ready: tuple[Traveller, Bundle], make_bundle: Callable) -> None:
    there, _ = ready
    before = there.current()
    large = make_bundle(padding=PADDING)
    enough = sent(there.board) + PADDING // 10
    typed = [Path(sys.executable).with_name("ferry"), "push", large.path, there.name]
    with subprocess.Popen(typed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as push:
        while sent(there.board) < enough:
            assert push.poll() is None
            time.sleep(0.01)
        there.board.switch("off")
        said = push.communicate(timeout=300)[0]
    assert (push.returncode, "while sending" in said) == (4, True), said
    there.board.switch("on")
    assert there.current() == before
    assert torn(there.board) == []
    part = arrived(there.board)
    done = json.loads(there.ferry("push", large.path, there.name, "--json"))
    assert PADDING - part <= done["bytes_sent"] < PADDING
    assert there.current() == large.id
    assert torn(there.board) == []


def torn(board: Board) -> list[str]:
    """Return the stored files whose content is not what their name, a SHA-256, says."""
    said = board.run(f"cd {ROOT}/store && find . -path ./incoming -prune -o -type f -exec sha256sum {{}} +")
    pairs = [line.split() for line in said.splitlines()]
    assert pairs
    return [name for digest, name in pairs if name != f"./{digest}"]


def sent(board: Board) -> int:
    """Return how many bytes have gone to it: more than what lies there, but told at once."""
    return int(Path(f"/sys/class/net/efboard{number_of(board.address)}/statistics/tx_bytes").read_text())


def arrived(board: Board) -> int:
    """Return how many bytes of what is on its way have arrived."""
    return sum(map(int, board.run(f"stat -c %s {ROOT}/store/incoming/*/*.part 2>/dev/null; true").split()))
