"""Asks for passphrases and passwords on the terminal."""

from __future__ import annotations

import os

import click

from edgeferry_devices.asking import Secrets


def terminal() -> Secrets:
    """Return what asks on the terminal for each secret once, as long as a command runs."""
    return Secrets(_ask)


def _ask(question: str) -> str | None:
    """Ask without echo; None where there is no terminal, or nothing was typed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return None
    answer: str = click.prompt(question, default="", show_default=False, hide_input=True, err=True)
    return answer or None
