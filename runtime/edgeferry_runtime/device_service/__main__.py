"""``python -m edgeferry_runtime.device_service refresh|remove ROOT``: what installing and purging do to a service.

They hold the lock of the device meanwhile.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgeferry_runtime.device_service.control import Control
from edgeferry_runtime.errors import EdgeferryError


def main(action: str, root: str) -> str | None:
    """Bring a service that runs up to date, or remove it; return what went wrong."""
    control = Control(Path(root))
    try:
        if action == "remove":
            control.remove()
        elif control.status()["running"]:
            control.restart()
    except EdgeferryError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
