"""Where things lie on the host: the XDG folders."""

from __future__ import annotations

import os
from pathlib import Path


def config_dir() -> Path:
    """Return ``$XDG_CONFIG_HOME/edgeferry``: the inventory and the pinned host keys."""
    return _base("XDG_CONFIG_HOME", ".config") / "edgeferry"


def cache_dir() -> Path:
    """Return ``$XDG_CACHE_HOME/edgeferry``: downloaded wheels."""
    return _base("XDG_CACHE_HOME", ".cache") / "edgeferry"


def data_dir() -> Path:
    """Return ``$XDG_DATA_HOME/edgeferry``: the folder of the device ``local``."""
    return _base("XDG_DATA_HOME", ".local/share") / "edgeferry"


def state_dir() -> Path:
    """Return ``$XDG_STATE_HOME/edgeferry``: sessions that hold a device, journals of runs, and what was measured."""
    return _base("XDG_STATE_HOME", ".local/state") / "edgeferry"


def _base(variable: str, default: str) -> Path:
    value = Path(os.environ.get(variable, ""))
    return value if value.is_absolute() else Path.home() / default
