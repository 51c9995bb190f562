"""TOML in and out: the standard library reads it from Python 3.11 on, tomli before, and tomli-w writes it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from edgeferry_runtime.errors import MissingExtraError


def parse(text: str) -> dict[str, Any]:
    """Read TOML.

    Raises:
        ValueError: If it is none; says where.
        MissingExtraError: On Python 3.10, if tomli is not installed.
    """
    data: dict[str, Any] = _module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads(text)
    return data


def dump(data: Mapping[str, Any]) -> str:
    """Write TOML.

    Args:
        data: Strings, numbers, booleans, lists and mappings of them; None has no form in TOML.

    Raises:
        MissingExtraError: If tomli-w is not installed.
    """
    text: str = _module("tomli_w").dumps(data)
    return text


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError("TOML", "all", name) from None
