"""For which machine a Linux library or program was built, read from its header.

Source: "Tool Interface Standard (TIS) Executable and Linking Format", version 1.2, and `elf.h`.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping
from pathlib import Path

MAGIC = b"\x7fELF"
MACHINES: Mapping[int, str] = {3: "x86", 40: "arm", 62: "x86-64", 183: "aarch64", 243: "riscv"}


def elf_machine(path: Path) -> str | None:
    """Name the architecture of a library or program, such as ``aarch64``; None where it is no ELF file.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as stream:
        head = stream.read(20)
    if len(head) < 20 or not head.startswith(MAGIC):
        return None
    order = ">" if head[5] == 2 else "<"
    number = struct.unpack_from(f"{order}H", head, 18)[0]
    bits = "" if number in (62, 183) else " 64-bit" if head[4] == 2 else " 32-bit"
    return MACHINES.get(number, f"machine {number}") + bits


def own_machine() -> str | None:
    """Name the architecture of this Python, which may differ from the kernel's; None where it cannot be known."""
    try:
        return elf_machine(Path(sys.executable or "").resolve())
    except OSError:
        return None
