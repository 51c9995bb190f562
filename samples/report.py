"""Make a page of what was measured in the last month: python report.py FILE [DEVICE...]."""

from __future__ import annotations

import sys
from pathlib import Path

from edgeferry_devices import render_report
from edgeferry_devices.comparing import Wanted, rows
from edgeferry_devices.report import save
from edgeferry_runtime import EdgeferryError


def main(file: str, *devices: str) -> int:
    """Print what became slower, and write the page; return the exit code."""
    try:
        found = rows(Wanted(devices=devices, since="30d"))
        save(render_report(found, "The last month"), Path(file))
    except EdgeferryError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for row in found:
        if row.change and row.change.verdict == "slower":
            print(f"{row.side.key.bundle} on {row.side.key.device} takes {row.change.ratio:.2f} times as long")
    print(f"{file}: {len(found)} measurements")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
