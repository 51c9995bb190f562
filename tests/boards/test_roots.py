"""Roots are built whole or not at all, once, and anew where their recipe changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import debian
import pytest
import recipe
import roots


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("no more space")

    with pytest.raises(RuntimeError, match="no more space"):
        roots._whole(tmp_path / "arm64", fail)
    assert list(tmp_path.iterdir()) == []


def test_what_is_built_is_kept(tmp_path: Path) -> None:
    for word in ("first", "second"):
        roots._whole(tmp_path / "arm64", lambda folder, word=word: (folder / word).touch())
    assert [path.name for path in (tmp_path / "arm64").iterdir()] == ["first"]


def test_a_second_builder_waits_and_clears_up_after_a_dead_one(tmp_path: Path) -> None:
    (tmp_path / "edition" / ".part-arm64-x").mkdir(parents=True)
    order: list[str] = []

    def second() -> None:
        with roots.locked(tmp_path):
            order.append("second")

    with roots.locked(tmp_path):
        assert list((tmp_path / "edition").iterdir()) == []
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.1)
        order.append("first")
    other.join()
    assert order == ["first", "second"]


def test_another_recipe_is_another_edition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe.edition()
    for name in recipe.MADE_BY:
        (tmp_path / name).write_bytes(Path(recipe.__file__).with_name(name).read_bytes())
    monkeypatch.setattr(recipe, "__file__", str(tmp_path / "recipe.py"))
    assert recipe.edition() == before
    (tmp_path / "debian.py").write_text("other")
    assert recipe.edition() != before


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFERRY_BOARDS", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert recipe.cache() == tmp_path / "edgeferry-boards"
    monkeypatch.setenv("EDGEFERRY_BOARDS", str(tmp_path / "other"))
    assert recipe.cache() == tmp_path / "other"


@pytest.mark.parametrize(
    ("told", "mirror"),
    [
        ("deb http://near.example/debian bookworm main\n", "http://near.example/debian"),
        ("deb [signed-by=/k] https://near.example/debian/ bookworm main\n", "https://near.example/debian"),
        ("Types: deb\nURIs: http://near.example/debian\n", "http://near.example/debian"),
        ("deb http://near.example/debian-security bookworm-security main\n", recipe.MIRROR),
    ],
)
def test_the_mirror_of_this_machine_is_used(told: str, mirror: str) -> None:
    assert debian.mirror_of(told) == mirror


def test_an_unsigned_archive_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: Callable[[str], None]
) -> None:
    if not shutil.which("apt-get"):
        missing("apt-get is not installed")
    site = tmp_path / "site" / "dists" / "bookworm"
    site.mkdir(parents=True)
    (site / "Release").write_text("Suite: bookworm\n")
    monkeypatch.setattr(debian, "mirror", lambda: f"file:{tmp_path / 'site'}")
    with pytest.raises(subprocess.CalledProcessError):
        debian.Archive(tmp_path / "apt", "bookworm", "arm64")


def test_python_of_the_kit_says_what_it_is_for() -> None:
    done = subprocess.run([sys.executable, roots.__file__, "riscv"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "riscv" in done.stderr
