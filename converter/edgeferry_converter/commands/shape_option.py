"""``--shape NAME=1,3,32,32``, as every command that opens a source takes it."""

from __future__ import annotations

from edgeferry_runtime.errors import UsageError


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read the name and the sizes.

    Raises:
        UsageError: If it is not ``NAME=SIZES``.
    """
    name, _, dims = text.rpartition("=")
    try:
        sizes = tuple(int(size) for size in dims.replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if not name or not sizes:
        raise UsageError(f"--shape {text}", "is not NAME=SIZES", "write it as --shape image=1,3,32,32")
    return name, sizes
