"""A push that has begun on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeferry_runtime.bundle import Manifest, content_id
from edgeferry_runtime.errors import BundleError
from edgeferry_runtime.proofs import Terms


@dataclass(frozen=True)
class Coming:
    """What comes, and what has to be done with it.

    Attributes:
        manifest: Of the bundle, checked.
        missing: The contents that have to be sent.
        terms: What it has to be proven with.
        stands: Whether it is the current release already, and only has to be proven again.
    """

    manifest: Mapping[str, Any]
    missing: tuple[str, ...]
    terms: Terms
    stands: bool

    @property
    def name(self) -> str:
        """The bundle's name."""
        return str(self.manifest["name"])

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.manifest["id"])


def checked(manifest: dict[str, Any]) -> Manifest:
    """Read the manifest that a host sends.

    Raises:
        BundleError: If it is damaged, was changed, or names a file outside its folder.
    """
    again = "convert the source again"
    try:
        read = Manifest.from_dict(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError("manifest", f"is damaged ({type(error).__name__}: {error})", again) from error
    if manifest.get("id") != content_id(manifest):
        raise BundleError(f"bundle {read.name}", "its id does not match its manifest", again)
    for name in (read.artifact, *read.files):
        if name != Path(name).name or name in ("", ".", ".."):
            raise BundleError(f"bundle {read.name}", f"names a file outside its folder: {name!r}", "do not use it")
    return read
