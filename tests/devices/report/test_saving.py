"""A report takes the place of an earlier one, and of nothing else."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edgeferry_devices.report import save
from edgeferry_devices.report.saving import MARKER, is_report
from edgeferry_runtime.errors import OutputExistsError

PAGE = f"<!doctype html>\n<head>{MARKER}</head>\n"


def test_it_is_written_whole_and_private_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    save(PAGE, path)
    assert path.read_text() == PAGE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    save(PAGE, path)
    save(PAGE + "later", path)
    assert path.read_text().endswith("later")


@pytest.mark.parametrize("kept", ["", "<html>mine</html>", " " * 1100 + MARKER])
def test_another_file_is_kept_unless_it_is_said(tmp_path: Path, kept: str) -> None:
    path = tmp_path / "thesis.html"
    path.write_text(kept)
    with pytest.raises(OutputExistsError, match=r"is no report that ferry made; name another file, or .* --force"):
        save(PAGE, path)
    assert path.read_text() == kept
    save(PAGE, path, force=True)
    assert is_report(path)


def test_a_folder_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError):
        save(PAGE, tmp_path, force=True)
    assert tmp_path.is_dir()
