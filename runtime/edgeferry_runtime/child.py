"""Child processes of our own Python. They import what is installed, and nothing that lies in the working folder."""

from __future__ import annotations

import sys

PROGRAM = """
import sys
sys.path = [folder for folder in sys.path if folder]
from {module} import {function}
sys.exit({function}(*sys.argv[1:]))
"""


def child_command(module: str, function: str, *arguments: str) -> list[str]:
    """Return the argument list that calls a function in a new process and exits with what it returns.

    The doubtful file may lie in the working folder, and have brought company. A child of a Python that is isolated
    from the user's own packages (``-I``) is isolated too.

    Args:
        module: Where the function is.
        function: Its name.
        arguments: What it is called with.
    """
    isolated = ["-I"] if sys.flags.isolated else []
    return [sys.executable, *isolated, "-c", PROGRAM.format(module=module, function=function), *arguments]
