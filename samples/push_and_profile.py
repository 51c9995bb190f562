"""Carry a bundle to a device, prove it there and measure it: python push_and_profile.py BUNDLE [DEVICE]."""

from __future__ import annotations

import sys

from edgeferry_devices import open_device, profile, push
from edgeferry_runtime import Bundle, EdgeferryError


def main(bundle: str, device: str = "local") -> int:
    """Print what was sent and how long a run takes there; return the exit code."""
    try:
        opened = Bundle.open(bundle)
        with open_device(device) as there:
            pushed = push(opened, there)
        print(f"{device}: {'up to date' if pushed.up_to_date else f'{pushed.bytes_sent} bytes sent'}")
        measured = profile([opened], [device]).check().profiles[0]
    except EdgeferryError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    low, high = measured.median_ms_ci95
    print(f"{device}: median {measured.median_ms:.3f} ms (95 % confidence {low:.3f} to {high:.3f})")
    for warning in measured.warnings:
        print(f"{device}: warning: {warning}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
