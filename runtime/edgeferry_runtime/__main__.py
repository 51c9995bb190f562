"""``python -m edgeferry_runtime`` is ``ferry``."""

from edgeferry_runtime.cli import main

main()
